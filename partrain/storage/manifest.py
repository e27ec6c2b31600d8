"""A folder that a comparison or a search has to itself: a JSON file says what it is of."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from partrain.errors import UserError
from partrain.storage import checkpoint


def write_manifest(
    path: Path,
    about: Mapping[str, Any],
    what: str,
    may_grow: Collection[str] = (),
    derived: Mapping[str, Any] | None = None,
) -> None:
    """Write `path`: all that the work in its folder depends on. A folder that holds another `what` is refused.

    Args:
        path: The manifest, in the folder of the work.
        about: What the work depends on, as plain JSON.
        what: The work in a word, for the error.
        may_grow: Names of numbers that may be larger now than they were.
        derived: What follows from the rest; it is written, not compared.

    Raises:
        ValueError: The file is there and says something else; the message names what differs.
    """
    derived = derived or {}
    if path.exists():
        stored = {name: value for name, value in checkpoint.read_json(path).items() if name not in derived}
        held, asked = _flat(stored), _flat(json.loads(json.dumps(about)))
        differ = [
            name
            for name in dict.fromkeys([*held, *asked])
            if held.get(name) != asked.get(name) and not (name in may_grow and held.get(name, 0) < asked[name])
        ]
        if differ:
            listed = "; ".join(f"{name} is {held.get(name)} there, {asked.get(name)} here" for name in differ)
            raise UserError(f"{path.parent} holds another {what}: {listed}; take a new folder")
    checkpoint.write_json(path, {**about, **derived})


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"grid": {"repeats": 5}} -> {"grid.repeats": 5}; settings by the names they are set by."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        own = prefix if not prefix and name == "settings" else f"{prefix}{name}"
        flat |= _flat(value, f"{own}." if own else "") if isinstance(value, dict) else {own: value}
    return flat
