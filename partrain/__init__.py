"""partrain trains neural networks in independent pieces: cut, train every segment on its own, stitch.

All that a user's script needs is a name of this package; everything below it is private. The names are loaded when they
are first used (PEP 562), so that a process imports no more than it needs; `__init__.pyi` says where they are.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
