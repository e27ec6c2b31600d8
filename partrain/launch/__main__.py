"""A process that is not forked: `python -m partrain.launch <module> <arguments>` calls `main(arguments)` of the module.

No module imports this file, so none is loaded twice.
"""

import gc
import sys
from importlib import import_module

gc.disable()  # Imports make many objects that stay. Visiting them again and again takes a quarter of the time.
main = import_module(sys.argv[1]).main
gc.enable()
sys.exit(main(sys.argv[2:]))
