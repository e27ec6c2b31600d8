"""Commands to type: the one that does a run again, and the one that goes on with a search or a comparison."""

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from partrain.console import console
from partrain.networks import NETWORKS, MLPSettings
from partrain.settings import GROUPS, RunSettings


def command(config: dict[str, Any]) -> str:
    """`python experiments/train.py ...` with every setting of `config` (config.yaml) that is not the default."""
    defaults = RunSettings().to_json()
    words = []
    for part, values in config.items():
        if part in GROUPS:
            words += _chosen(part, values, defaults[part])
        elif isinstance(values, dict):
            words += _changed(part, values, defaults[part])
        elif values != defaults[part]:
            words.append(f"{part}={_text(values)}")
    return shlex.join(["python", "experiments/train.py", *words])


def _chosen(group: str, values: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    """`group=option`, where it is not the default one, and what of it was changed."""
    key = GROUPS[group]
    option, words = values[key], []
    if group == "network":
        kind = NETWORKS[option]
        defaults = {each.name: None if each.default is MISSING else each.default for each in fields(kind)}
        words = [] if kind is MLPSettings else [f"network={option}"]
    elif option != defaults[key]:
        own = group == "labels" and ":" in option
        words = ["labels=custom", f"labels.family={option}"] if own else [f"{group}={option}"]
    if option == "sequential":
        defaults = defaults | {"last_input": None}  # which this option sets too
    return words + _changed(group, {name: value for name, value in values.items() if name != key}, defaults)


def _changed(part: str, values: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    words = []
    for name, value in values.items():
        if isinstance(value, dict) and defaults.get(name):
            words += _changed(f"{part}.{name}", value, defaults[name])
        elif isinstance(value, dict):
            words += [f"+{part}.{name}.{option}={_text(each)}" for option, each in value.items()]
        elif value != defaults.get(name):
            words.append(f"{part}.{name}={_text(value)}")
    return words


def _text(value: Any) -> str:
    """`value` in Hydra's grammar of overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    text = str(value)
    if not isinstance(value, str) or re.fullmatch(r"[\w./:-]+", text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


@contextmanager
def resumable(folder: Path, script: str, arguments: Sequence[str]) -> Iterator[None]:
    """Within it Ctrl-C says how to go on with what experiments/`script`.py was given `arguments` for."""
    try:
        yield
    except KeyboardInterrupt:
        words = ["python", f"experiments/{script}.py", *arguments, f"hydra.run.dir={folder}"]
        console.print(f"what is done is kept; go on with: {shlex.join(words)}", markup=False, soft_wrap=True)
        raise
