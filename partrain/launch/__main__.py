"""A process that is not forked: `python -m partrain.launch <module> <arguments>` calls `main(arguments)` of the module.

No module imports this file, so none is loaded twice.
"""

import sys

from partrain.launch.imports import import_at_start

sys.exit(import_at_start(sys.argv[1]).main(sys.argv[2:]))
