"""Where people read: rich output on a terminal, plain lines elsewhere."""

import sys

from rich.console import Console

console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, soft_wrap=True, width=110)
