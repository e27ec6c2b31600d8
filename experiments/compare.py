"""The command that compares strategies by a grid of runs, and writes tables and a page of them; see `--help`."""

import sys

from partrain.cli.start import start_command

if __name__ == "__main__":
    start_command("compare", sys.argv[1:])
