"""The format of a run's files: a number in each, by which a file of another version is upgraded or refused.

Format 1 had no number. It called a network's name `kind` or `builder` and that of labels `family`, and each option of
a group had the settings of all.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from partrain.errors import UserError

FORMAT = 2
"""The format of the files that this version writes."""


def check_format(path: Path, number: object) -> bool:
    """Return whether the file has today's format, and not the one before, which is to be upgraded.

    Args:
        path: The file, for the error.
        number: The number in the file, or None if it has none.

    Raises:
        UserError: If the file has any other format.
    """
    if number == FORMAT:
        return True
    if number in (None, 1):
        return False
    raise UserError(
        f"{path} has format {number}, and this version of partrain reads formats 1 and {FORMAT}; "
        "continue with the version that wrote it"
    )


def upgrade_network(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a network in today's format."""
    name = values.get("builder") or values.get("name") or values["kind"]
    return {"name": name} | {key: value for key, value in values.items() if key not in ("kind", "name", "builder")}


def upgrade_labels(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of labels in today's format."""
    kept = ("scale", "loss", "noise", *(["density"] if values["family"] == "sparse" else []))
    return {"name": values["family"]} | {key: values[key] for key in kept if key in values}


def upgrade_train(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a training in today's format."""
    is_default = values["optimizer"] != "sgd" or values.get("momentum") == 0.9
    return {key: value for key, value in values.items() if key != "momentum" or not is_default}
