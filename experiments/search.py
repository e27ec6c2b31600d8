"""Search over settings: random and grid search, successive halving, Hyperband. `--help` lists the settings."""

import sys

from partrain.cli.start import start_command

if __name__ == "__main__":
    start_command("search", sys.argv[1:])
