"""Evaluate a run's stitched network on its own or other test images. `--help` lists the settings."""

from partrain.cli.evaluate import main

if __name__ == "__main__":
    main()
