"""The errors of commands: a mistake of the user ends a command with one line, and the way to continue is printed."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from partrain import checks
from partrain.cli.old_words import describe_old_word
from partrain.console import console
from partrain.errors import JobFailed, UserError
from partrain.options import Option
from partrain.settings import GROUPS


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
def job_errors_in_one_line() -> Iterator[None]:
    """Handle errors as `errors_in_one_line` does, inside Hydra's main function, before Hydra adds lines to them.

    In a multirun errors are raised: Hydra first runs the other jobs.
    """
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        yield
        return
    with errors_in_one_line():
        yield


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
    group, _, setting = name.partition(".")
    chosen = OmegaConf.get_type(error.parent_node) if isinstance(error.parent_node, DictConfig) else None
    if group in GROUPS and isinstance(chosen, type) and issubclass(chosen, Option):
        return GROUPS[group].refusal(setting, chosen)
    known = list(error.parent_node) if isinstance(error.parent_node, DictConfig) else []
    return checks.unknown_setting(name, map(str, known))
