"""A folder that a comparison or a search has to itself: a JSON file says what it is of; how to go on with it."""

import json
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from partrain import checkpoint
from partrain.console import console
from partrain.settings import RunSettings

# settings on which no number depends
_NOT_DECIDING = {
    "data": ("root", "download", "cache"),
    "launch": ("max_restarts", "shards"),  # a model in shards is what it is elsewhere
    "partition": ("dry_run",),
    "report": ("page",),
    "strategy": ("port",),
}


def deciding(settings: RunSettings) -> dict[str, Any]:
    """All of `settings` that numbers depend on; where files lie is not part of it."""
    values = settings.to_json()
    for part, names in _NOT_DECIDING.items():
        values[part] = {name: value for name, value in values[part].items() if name not in names}
    return values


def claim(
    path: Path,
    about: Mapping[str, Any],
    what: str,
    growing: Collection[str] = (),
    following: Mapping[str, Any] | None = None,
) -> None:
    """Write `path`: all that the work in its folder depends on; a folder that holds another `what` is refused.

    `growing`: numbers that may be larger now than they were. `following`: what follows from the rest, written with it.

    Raises:
        ValueError: the file is there and says something else; the message names what differs.
    """
    following = following or {}
    if path.exists():
        stored = {name: value for name, value in checkpoint.read_json(path).items() if name not in following}
        held, asked = _flat(stored), _flat(json.loads(json.dumps(about)))
        differ = [
            name
            for name in dict.fromkeys([*held, *asked])
            if held.get(name) != asked.get(name) and not (name in growing and held.get(name, 0) < asked[name])
        ]
        if differ:
            listed = "; ".join(f"{name} is {held.get(name)} there, {asked.get(name)} here" for name in differ)
            raise ValueError(f"{path.parent} holds another {what}: {listed}; take a new folder")
    checkpoint.write_json(path, {**about, **following})


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"grid": {"repeats": 5}} -> {"grid.repeats": 5}; settings by the names they are set by."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        own = prefix if not prefix and name == "settings" else f"{prefix}{name}"
        flat |= _flat(value, f"{own}." if own else "") if isinstance(value, dict) else {own: value}
    return flat


@contextmanager
def resumable(folder: Path, script: str, arguments: Sequence[str]) -> Iterator[None]:
    """Within it Ctrl-C says how to go on with what experiments/`script`.py was given `arguments` for."""
    try:
        yield
    except KeyboardInterrupt:
        words = ["python", f"experiments/{script}.py", *arguments, f"hydra.run.dir={folder}"]
        console.print(f"what is done is kept; go on with: {shlex.join(words)}", markup=False, soft_wrap=True)
        raise
