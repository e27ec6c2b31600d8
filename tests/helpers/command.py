"""A command of experiments/ in a process of its own: `main([errors, name, *arguments])` runs it as a user does.

Standard errors go to the file `errors`, and warnings are errors. Where the process is forked, torch is imported already.
"""

import os
import runpy
import sys
import warnings
from collections.abc import Sequence

from scripting import ROOT


def main(arguments: Sequence[str]) -> int:
    errors, name, *words = arguments
    with open(errors, "ab") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    warnings.simplefilter("error")
    script = str(ROOT / "experiments" / f"{name}.py")
    sys.argv[:] = [script, *words]
    runpy.run_path(script, run_name="__main__")
    return 0
