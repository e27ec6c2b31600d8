"""The errors of commands: a mistake of the user ends a command with one line, and the way to continue is printed."""

import os
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from partrain import checks
from partrain.cli.old_words import describe_old_word
from partrain.console import console
from partrain.errors import JobFailed, UserError
from partrain.settings import GROUPINGS


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """End the command with one line and exit code 1 on a mistake of the user, and with exit code 130 on Ctrl-C.

    Other exceptions are raised. With the environment variable PARTRAIN_TRACEBACK set, tracebacks are always printed.
    """
    # By default Hydra prints exceptions itself, and then they never get here.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        _exit_with(one_line(error))
    except JobFailed as error:
        _exit_with(str(error))
    except KeyboardInterrupt:
        console.print("Stopped.")
        sys.exit(130)


@contextmanager
def job_errors_in_one_line(resume: str | None = None) -> Iterator[None]:
    """Handle errors as `errors_in_one_line` does, inside Hydra's main function, before Hydra adds lines to them.

    In a multirun errors are raised: Hydra first runs the other jobs.

    Args:
        resume: The folder of the run that the command trains. How to resume it is printed if training stops or fails.
    """
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        yield
        return
    with errors_in_one_line():
        try:
            yield
        except (KeyboardInterrupt, JobFailed, OSError):
            if resume:
                console.print(f"Progress is saved. To continue: {_resume_command(resume)}", soft_wrap=True)
            raise


def _resume_command(folder: str) -> str:
    """Return the command that resumes the run in `folder`, with the present settings of grouping and launching.

    A resumed run takes those of launching from the command alone.
    """
    words = [word for word in HydraConfig.get().overrides.task if word.lstrip("+").startswith(("grouping", "launch"))]
    return shlex.join(["python", "experiments/train.py", f"resume={folder}", *words])


def _exit_with(message: str) -> None:
    """Print `message` to standard error and exit with code 1."""
    print(f"error: {message}", file=sys.stderr)
    if os.environ.get("PARTRAIN_TRACEBACK"):
        traceback.print_exc()
    sys.exit(1)


def one_line(error: BaseException) -> str:
    """Return the message of `error` in one line, without the layout that Hydra and OmegaConf give theirs."""
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file is not None:
        group, _, option = error.missing_cfg_file.rpartition("/")
        known = ", ".join(sorted(error.options))
        return describe_old_word(f"{group}={option}") or f"{group}={option} is unknown; known: {known}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, OmegaConfBaseException):
        return _setting_error(error, lines[0])
    if isinstance(error, HydraException) and error.__cause__ is not None:
        return one_line(error.__cause__)
    return " ".join(lines) or type(error).__name__


def _setting_error(error: OmegaConfBaseException, message: str) -> str:
    """Return the message for a setting that does not exist or whose value has another type.

    Args:
        error: The error, which holds the setting's name and its group.
        message: The first line of the error's own message.
    """
    name = str(error.full_key or "")
    if not isinstance(error, ConfigKeyError | ConfigAttributeError):
        return f"{name}: {message}" if name and name not in message else message
    if name.rpartition(".")[0].endswith("options"):
        return f"{name} is not a setting yet; add it as +{name}=<value>"
    if grouping := _grouping_with(name):
        return f"{name} is a setting of grouping={grouping}; add grouping={grouping}, or leave it out"
    known = list(error.parent_node) if isinstance(error.parent_node, DictConfig) else []
    return checks.unknown_setting(name, map(str, known))


def _grouping_with(name: str) -> str | None:
    """Return the option of `grouping` that has the setting `name`, or None if none has, as outside that group."""
    for option, settings in GROUPINGS.items():
        if name in {f"grouping.{field.name}" for field in fields(settings)}:
            return option
    return None
