"""Evaluate a run's stitched network on its own or other test images. `--help` lists the settings."""

import sys

from partrain.cli.start import start_command

if __name__ == "__main__":
    start_command("evaluate", sys.argv[1:])
