"""The start of a command, which takes no longer than its imports and those of the zygote do side by side."""

import gc
import importlib
import sys

from partrain.launch.zygote import start_early


def start_command(name: str, *, trains: bool = False) -> None:
    """Import the module of a command and call its `main`.

    Args:
        name: The name of the command, such as "train".
        trains: Whether it trains in forked processes, so that the zygote is started first.
    """
    if trains:
        start_early(sys.argv[1:])
    gc.disable()  # Imports make many objects that stay. Visiting them again and again takes a quarter of the time.
    command = importlib.import_module(f"partrain.cli.{name}")
    gc.freeze()
    gc.enable()
    command.main()
