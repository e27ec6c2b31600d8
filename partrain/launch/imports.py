"""The imports at the start of a process, without the garbage collector."""

import gc
import importlib
import sys
from types import ModuleType


def import_at_start(name: str) -> ModuleType:
    """Import a module and all that it imports, and let the collector pass over these objects from then on.

    They are many and stay. Visiting them again and again takes a quarter of the time of the imports.
    """
    if name in sys.modules:
        return sys.modules[name]
    gc.disable()
    module = importlib.import_module(name)
    gc.freeze()
    gc.enable()
    return module
