"""A command of experiments/ in a process of its own: `main([name, *arguments])` runs it as a user does.

Where the process is forked, the command starts with torch imported.
"""

import runpy
import sys
from collections.abc import Sequence

from scripting import ROOT


def main(arguments: Sequence[str]) -> int:
    name, *words = arguments
    script = str(ROOT / "experiments" / f"{name}.py")
    sys.argv[:] = [script, *words]
    runpy.run_path(script, run_name="__main__")
    return 0
