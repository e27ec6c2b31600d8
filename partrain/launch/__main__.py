"""The start of a training process; see `worker`. Nothing imports this file, so that no module is there twice."""

import sys

from partrain.launch.worker import main

sys.exit(main(sys.argv[1:]))
