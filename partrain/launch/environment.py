"""The environment of training processes: their launcher's, with the same modules."""

import os
import sys


def import_path() -> list[str]:
    """Return the folders that this process imports modules from, absolute."""
    return [path or os.getcwd() for path in sys.path]


def process_environment() -> dict[str, str]:
    """Return the environment variables of a training process: this one's, with the same modules."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(import_path())}
