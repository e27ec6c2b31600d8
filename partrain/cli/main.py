"""The command `partrain <name> ...`, which works in any folder."""

import sys

from partrain.cli.start import start_command

COMMANDS = {
    "train": "cut a network, train its segments, stitch and evaluate them",
    "evaluate": "evaluate a run's network on its own or other test images",
    "search": "search for the best settings",
    "compare": "compare strategies by a grid of runs",
    "simulate": "simulate a sharded training on other devices",
}
"""What each command does, by its name."""


def main() -> None:
    """Do the command whose name is the first argument, with the others as its own."""
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if name in ("--help", "-h", "help"):
        print(_usage())
        return
    if name == "--version":
        from importlib.metadata import version

        print(f"partrain {version('partrain')}")
        return
    if name not in COMMANDS:
        print(f"error: partrain {name} is no command; known: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(1)
    start_command(name, arguments)


def _usage() -> str:
    """Return the help of the command."""
    width = max(map(len, COMMANDS))
    lines = [f"  partrain {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(
        [
            "Train neural networks in independent pieces, and many at once.",
            "",
            *lines,
            "",
            "partrain <command> --help lists the settings of a command, which are given as name=value.",
        ]
    )
