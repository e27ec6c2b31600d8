"""The main job: cut a network, train every segment on its own, stitch, evaluate. `--help` lists the settings."""

import sys

from partrain.cli.start import start_command

if __name__ == "__main__":
    start_command("train", sys.argv[1:])
