"""Search over settings: random and grid search, successive halving, Hyperband. `--help` lists the settings."""

import sys

from partrain.launch.zygote import start_early

if __name__ == "__main__":
    start_early(sys.argv[1:])  # It imports torch while this process does.

    from partrain.cli.search import main

    main()
