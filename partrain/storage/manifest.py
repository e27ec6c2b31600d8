"""The manifest of a search or a comparison: a JSON file with all that the work in its folder depends on."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from partrain.errors import UserError
from partrain.storage import checkpoint


def write_manifest(
    path: Path,
    inputs: Mapping[str, Any],
    kind_of_work: str,
    may_grow: Collection[str] = (),
    derived: Mapping[str, Any] | None = None,
    ignored: Collection[str] = (),
) -> None:
    """Write a manifest, unless its folder holds other work.

    Args:
        path: The manifest, in the folder of the work.
        inputs: All that the work depends on, as plain JSON.
        kind_of_work: The work in a word, for the error.
        may_grow: The names of numbers that may be larger now than they were.
        derived: Values that follow from the inputs. They are written, but not compared.
        ignored: The groups of settings that an older version wrote and compared, but that are not compared now.

    Raises:
        UserError: If the folder has a manifest with other inputs. The message names those that differ.
    """
    derived = derived or {}
    check_manifest(path, inputs, kind_of_work, may_grow, derived, ignored)
    checkpoint.write_json(path, {**inputs, **derived})


def check_manifest(
    path: Path,
    inputs: Mapping[str, Any],
    kind_of_work: str,
    may_grow: Collection[str] = (),
    derived: Collection[str] = (),
    ignored: Collection[str] = (),
) -> None:
    """Raise `UserError` if the folder has a manifest with other inputs; see `write_manifest`."""
    if not path.exists():
        return
    stored = {name: value for name, value in checkpoint.read_json(path).items() if name not in derived}
    old, new = _flatten(stored), _flatten(json.loads(json.dumps(inputs)))
    old = {name: value for name, value in old.items() if name.partition(".")[0] not in ignored}

    def has_grown(name: str) -> bool:
        return name in may_grow and old.get(name, 0) < new[name]

    names = dict.fromkeys([*old, *new])
    different = [name for name in names if old.get(name) != new.get(name) and not has_grown(name)]
    if different:
        listed = "; ".join(f"{name} is {old.get(name)} there, {new.get(name)} here" for name in different)
        raise UserError(f"{path.parent} holds another {kind_of_work}: {listed}; take a new folder")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by their full names: {"grid": {"repeats": 5}} becomes {"grid.repeats": 5}.

    Values below "settings" get the names that people set them by, without that word.
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        full_name = prefix if not prefix and name == "settings" else f"{prefix}{name}"
        if isinstance(value, dict):
            flat |= _flatten(value, f"{full_name}." if full_name else "")
        else:
            flat[full_name] = value
    return flat
