"""The start of a device's worker process: `python -m partrain.shards <descriptor of its connection>`.

Nothing imports this file, so that no module is there twice.
"""

import sys

from partrain.shards.device_worker import main

main(int(sys.argv[1]))
