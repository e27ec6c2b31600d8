"""Commands that the user can paste: the one that does a run again, and the one that resumes a search or comparison."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from partrain.console import console
from partrain.networks import NETWORKS, MLPSettings
from partrain.runs.old_config import upgrade_config
from partrain.settings import GROUPINGS, OPTION_FIELDS, RunSettings


def train_command(config: dict[str, Any]) -> str:
    """Return the command `python experiments/train.py ...` that does a run again.

    Args:
        config: The run's settings, as config.yaml holds them. Those that have their default are left out.
    """
    defaults = RunSettings().to_json()
    words = []
    for part, values in upgrade_config(config).items():
        if part in OPTION_FIELDS:
            words += _option_words(part, values, defaults[part])
        elif isinstance(values, dict):
            words += _changed_words(part, values, defaults[part])
        elif values != defaults[part]:
            words.append(f"{part}={_override_value(values)}")
    return shlex.join(["python", "experiments/train.py", *words])


@contextmanager
def print_resume_command_on_interrupt(folder: Path, script: str, arguments: Sequence[str]) -> Iterator[None]:
    """Print how to continue if Ctrl-C interrupts the context.

    Args:
        folder: The folder of the search or comparison.
        script: The name of the script in experiments/, without ".py".
        arguments: The arguments that the script was called with.
    """
    try:
        yield
    except KeyboardInterrupt:
        words = ["python", f"experiments/{script}.py", *arguments, f"hydra.run.dir={folder}"]
        console.print(f"Progress is saved. To continue: {shlex.join(words)}", markup=False, soft_wrap=True)
        raise


def _option_words(group: str, values: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    """Return the word `group=option` if that is not the default, then words for the changed settings of the group."""
    option_field = OPTION_FIELDS[group]
    option = values[option_field]
    words: list[str] = []
    if group == "network":
        defaults = {
            field.name: None if field.default is MISSING else field.default for field in fields(NETWORKS[option])
        }
        words = [] if NETWORKS[option] is MLPSettings else [f"network={option}"]
    elif group == "labels" and ":" in option:
        words = ["labels=custom", f"labels.family={option}"]
    elif option != defaults[option_field]:
        words = [f"{group}={option}"]

    if group == "grouping":
        defaults = asdict(GROUPINGS[option](name=option))
    if option == "sequential":
        # The option sets last_input as well, so that either of its values is a change.
        defaults = defaults | {"last_input": None}
    others = {name: value for name, value in values.items() if name != option_field}
    return words + _changed_words(group, others, defaults)


def _changed_words(part: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Return a word for each of `values` that differs from the defaults. Free options, without a default, get a "+"."""
    words = []
    for name, value in values.items():
        if isinstance(value, dict) and defaults.get(name):
            words += _changed_words(f"{part}.{name}", value, defaults[name])
        elif isinstance(value, dict):
            words += [f"+{part}.{name}.{option}={_override_value(item)}" for option, item in value.items()]
        elif value != defaults.get(name):
            words.append(f"{part}.{name}={_override_value(value)}")
    return words


def _override_value(value: Any) -> str:
    """Return `value` in the grammar of Hydra's overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_override_value, value))}]"
    text = str(value)
    if not isinstance(value, str) or re.fullmatch(r"[\w./:-]+", text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
