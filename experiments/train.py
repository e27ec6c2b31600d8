"""The main job: cut a network, train every segment on its own, stitch, evaluate. `--help` lists the settings."""

import sys

from partrain.launch.zygote import start_early

if __name__ == "__main__":
    start_early(sys.argv[1:])  # It imports torch while this process does.

    from partrain.cli.train import main

    main()
