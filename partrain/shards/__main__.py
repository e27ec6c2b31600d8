"""The entry point of a device's worker process: `python -m partrain.shards <file descriptor of its connection>`.

No other module imports this one, since it would then exist twice: under its own name and as `__main__`.
"""

import sys

from partrain.shards.device_worker import main

main(int(sys.argv[1]))
