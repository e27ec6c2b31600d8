"""The command as a module: `python -m partrain train ...`."""

from partrain.cli.main import main

if __name__ == "__main__":
    main()
