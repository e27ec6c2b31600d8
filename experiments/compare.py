"""The command that compares strategies by a grid of runs, and writes tables and a page of them; see `--help`."""

import sys

from partrain.launch.zygote import start_early

if __name__ == "__main__":
    start_early(sys.argv[1:])  # It imports torch while this process does.

    from partrain.cli.compare import main

    main()
