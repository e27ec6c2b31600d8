"""The start of a training process, see `partrain.launch.worker`. No module imports this file, so none is loaded twice."""

import sys

from partrain.launch.worker import main

sys.exit(main(sys.argv[1:]))
