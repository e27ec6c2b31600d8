"""Commands for people to paste: the one that does a run again, and those that resume what was interrupted.

Two grammars are quoted: that of Hydra's overrides, and the shell's around it.
"""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from partrain.console import console
from partrain.data import Dataset
from partrain.errors import JobFailed
from partrain.options import Settings, field_defaults
from partrain.settings import GROUPS, RunSettings

_PLAIN = re.compile(r"[A-Za-z_/][\w./:-]*", re.ASCII)
"""Text that Hydra reads as it is, if it is none of `_HYDRAS_WORDS`."""
_FUNCTIONS = {"train": "run", "search": "search", "compare": "compare"}
"""The function of the package that does what a command does."""
_HYDRAS_WORDS = ("null", "true", "false", "inf", "nan")
"""Text that Hydra would read as something else, in any case of letters."""


def train_command(settings: RunSettings) -> str:
    """Return the command `partrain train ...` that does a run again; settings that have their default are left out."""
    return shlex.join(["partrain", "train", *changed_words(settings)])


def local_command(name: str, words: Sequence[str]) -> str:
    """Return a command as it can be typed in the present folder, given its name, such as "train", and its words."""
    return shlex.join([*_program(), name, *words])


@contextmanager
def print_resume_command(name: str, folder: Path, settings: RunSettings, dataset: Dataset) -> Iterator[None]:
    """Print how to continue if Ctrl-C or a failure ends the context.

    Args:
        name: The name of the command that does it, such as "train".
        folder: The folder of the run, search or comparison.
        settings: Its settings. How processes are launched is no part of what the folder holds.
        dataset: Its data, which a command cannot name if they were given from Python.
    """
    try:
        yield
    except (KeyboardInterrupt, JobFailed, OSError):
        if dataset.name == settings.data.name:
            words = [override("resume", str(folder)), *option_words("launch", asdict(settings.launch))]
            how = local_command(name, words)
        else:
            how = f"call partrain.{_FUNCTIONS[name]} with the same arguments and the folder {folder}"
        console.print(f"Progress is saved. To continue: {how}", soft_wrap=True)
        raise


def _program() -> list[str]:
    """Return the words that begin a command of partrain, of the environment that this process runs in."""
    script = Path(sys.executable).with_name("partrain")
    if shutil.which("partrain") == str(script):
        return ["partrain"]
    if script.exists():
        return [_from_here(script)]
    return [_from_here(Path(sys.executable)), "-m", "partrain"]


def _from_here(path: Path) -> str:
    """Return a path relative to the present folder if it is below it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


# ---- Words of a command line.


def changed_words(settings: RunSettings) -> list[str]:
    """Return a word for each of the settings that differs from its default."""
    defaults = RunSettings().to_dict()
    words = []
    for part, values in settings.to_dict().items():
        if part in GROUPS:
            words += option_words(part, values)
        elif isinstance(values, dict):
            words += _changed_words(part, values, defaults[part])
        elif values != defaults[part]:
            words.append(override(part, values))
    return words


def option_words(group: str, values: Mapping[str, Any]) -> list[str]:
    """Return the word `group=option` if that is not the default, then words for the changed settings of the option."""
    options = GROUPS[group]
    settings = options.class_named(values["name"])
    option = options.name_of(settings)
    default_option = options.name_of(type(getattr(RunSettings(), group)))
    words = [] if option == default_option else [f"{group}={option}"]
    return words + _changed_words(group, values, field_defaults(settings))


def group_words(settings: Settings) -> list[str]:
    """Return a word for each setting of a group without options that differs from its default."""
    return _changed_words(settings.group, asdict(settings), field_defaults(type(settings)))


def _changed_words(part: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Return a word for each of `values` that differs from the defaults."""
    words = []
    for name, value in values.items():
        if isinstance(value, dict):
            words += [override(f"{part}.{name}.{option}", item) for option, item in value.items()]
        elif value != defaults[name]:
            words.append(override(f"{part}.{name}", value))
    return words


def override(name: str, value: Any) -> str:
    """Return the word that sets `name` to `value`, in the grammar of Hydra's overrides."""
    return f"{name}={_override_value(value)}"


def _override_value(value: Any) -> str:
    """Return `value` in the grammar of Hydra's overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_override_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_override_value(item)}" for key, item in value.items()) + "}"
    return _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    """Return text that Hydra reads as this text, whatever is in it, and not as a number or as something special."""
    if _PLAIN.fullmatch(text) and text.lower() not in _HYDRAS_WORDS:
        return text
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # OmegaConf would take ${ as the begin of an interpolation.
    literal = re.sub(r"(\\*)'", r"\1\1\\'", literal)  # Backslashes are special before a quote alone.
    literal = re.sub(r"(\\+)$", r"\1\1", literal)
    return f"'{literal}'"
