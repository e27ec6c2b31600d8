"""The file config.yaml of a run, a search or a comparison: its settings, which are the truth about it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from partrain import checks
from partrain.errors import UserError
from partrain.options import Settings, field_types
from partrain.settings import GROUPS, RunSettings
from partrain.storage import checkpoint
from partrain.storage.formats import FORMAT, check_format, upgrade_labels, upgrade_network, upgrade_train

BESIDES = ("search", "grid")
"""The groups of settings in the config.yaml of a search or a comparison that its runs do not have."""

S = TypeVar("S", bound=Settings)


def write_config(path: Path, settings: RunSettings, *besides: Settings) -> None:
    """Write settings to a config.yaml.

    Args:
        path: The file.
        settings: The settings of the run, or those that all runs of a search or a comparison share.
        *besides: The settings of the search or the comparison itself.
    """
    others = {part.group: asdict(part) for part in besides}
    values = {"format": FORMAT, **settings.to_dict(), **others}
    checkpoint.write_text(path, yaml.safe_dump(values, sort_keys=False))


def read_config(path: Path) -> RunSettings:
    """Return the settings in a config.yaml: those of a run, or those that all runs of a search or a comparison share.

    Raises:
        UserError: If the file is damaged, of a format that this version does not read, or has what is no setting.
    """
    values = _read_yaml(path)
    try:
        upgraded = upgrade_config(path, {name: value for name, value in values.items() if name not in BESIDES})
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r})") from None
    with _naming(path):
        return RunSettings.from_dict(upgraded)


def read_besides(path: Path, settings: type[S]) -> S:
    """Return the settings of a search or a comparison that `write_config` wrote besides those of its runs.

    Raises:
        UserError: If the file is damaged, or has what is no setting.
    """
    values = _read_yaml(path).get(settings.group)
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged: it has no settings of {settings.group}")
    with _naming(path):
        for name in values:
            if name not in field_types(settings):
                raise UserError(checks.unknown_setting(f"{settings.group}.{name}", field_types(settings)))
        return settings(**values)


def _read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        UserError: If it holds none.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged: it holds no settings")
    return values


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let the errors of wrong settings begin with the file that holds them."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def upgrade_config(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of a config.yaml in today's format, without the number of it.

    Args:
        path: The file, for errors.
        values: Its contents.

    Raises:
        UserError: If the file is damaged, or of a format that this version does not read.
    """
    is_current = check_format(path, values.get("format"))
    values = {name: value for name, value in values.items() if name != "format"}
    parts = {part.name for part in fields(RunSettings)}
    if not is_current:
        values = _with_grouping(values)
    if set(values) != parts:
        raise UserError(f"{path} is damaged: expected the settings {', '.join(sorted(parts))}")
    return values if is_current else _with_options(values)


# ---- Format 1. Before it had `grouping`, the group `launch` held packs and shards, and a strategy had a port.


def _with_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of format 1 in which every option has its own settings alone."""
    upgraded = dict(values) | {
        "network": upgrade_network(values["network"]),
        "labels": upgrade_labels(values["labels"]),
        "train": upgrade_train(values["train"]),
    }
    if values["strategy"]["name"] == "end_to_end":
        upgraded["partition"] = values["partition"] | {"segments": 1, "at": None}
    for group in ("data", "schedule", "strategy", "grouping", "launch"):
        known = field_types(GROUPS[group].class_named(values[group]["name"]))
        upgraded[group] = {name: value for name, value in values[group].items() if name in known}
    return upgraded


def _with_grouping(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings of format 1 with a group `grouping`."""
    launch, strategy = values.get("launch"), values.get("strategy")
    if "grouping" in values or not isinstance(launch, dict) or not isinstance(strategy, dict):
        return values
    return values | {
        "grouping": _grouping(launch),
        "launch": {name: launch[name] for name in ("device", "threads", "max_restarts") if name in launch}
        | {"name": "local"},
    }


def _grouping(launch: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the grouping that the settings of an old `launch` describe."""
    if launch.get("name") == "shards":
        return {"name": "shards", **launch.get("shards", {})}
    if launch.get("pack", "never") == "never":
        return {"name": "alone"}
    return {"name": "pack", "trial": launch["pack"] == "auto", "memory_gib": launch.get("pack_memory_gib")}
