"""The start of a command, whose imports and those of the zygote go side by side."""

import sys
from collections.abc import Sequence

from partrain.launch.imports import import_at_start
from partrain.launch.zygote import start_early

_TRAINING_COMMANDS = ("train", "search")
"""The commands that train in forked processes, so that the zygote is started first."""


def start_command(name: str, arguments: Sequence[str]) -> None:
    """Import the module of a command and call its `main`, whose errors end the process as users expect.

    Args:
        name: The name of the command, such as "train".
        arguments: The arguments of the command line after it.
    """
    if name in _TRAINING_COMMANDS:
        start_early(arguments)
    sys.argv[1:] = arguments
    if _is_single_run(arguments):
        sys.argv.append("--run")  # Else Hydra composes the configuration once more, only to find out.
    command = import_at_start(f"partrain.cli.{name}")

    # Imported by the command as well, and not before the zygote is started.
    from partrain.cli.config import register_schemas
    from partrain.cli.errors import errors_in_one_line

    register_schemas()
    with errors_in_one_line():
        command.main()


def _is_single_run(arguments: Sequence[str]) -> bool:
    """Return whether no word of the command line can ask for a multirun, as a flag, a mode and an experiment can."""
    return not any(word.lstrip("+~").startswith(("-", "hydra.mode", "experiment")) for word in arguments)
