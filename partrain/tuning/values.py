"""Values of searched settings: put into a run's settings by dotted names such as train.lr, checked, and shown as text."""

from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any

from partrain import checks
from partrain.errors import UserError
from partrain.options import field_types
from partrain.report.formatting import format_setting
from partrain.settings import GROUPS, RunSettings

# Why these settings and groups of settings have the same value in all trials.
_NOT_SEARCHABLE = {
    "train.epochs": "it is how long the last rungs train",
    "partition.dry_run": "a dry run trains nothing",
    "data": "scores on different data cannot be compared",
    "grouping": "which trainings share a process does not make a network better",
    "launch": "where and how fast a network trains does not make it better",
    "report": "a page does not make a network better",
}


def full_name(name: str) -> str:
    """Return the name of the setting that a group's name alone stands for, as labels.name for labels."""
    return f"{name}.name" if name in GROUPS else name


def apply_values(settings: RunSettings, values: Mapping[str, Any]) -> RunSettings:
    """Return a copy of `settings` with `values` in place of its own.

    Where the option of a group changes, the settings that all its options share stay, and the others are defaults.

    Args:
        settings: The settings that all trials have in common.
        values: New values by the settings' dotted names.

    Raises:
        UserError: If there is no such setting, a search cannot change it, or it cannot have that value.
    """
    described = settings.to_dict()
    located = {name: _locate(name) for name in values}
    for name, (part, key) in located.items():
        if key == "name" and values[name] != described[part]["name"]:
            shared = field_types(GROUPS[part].base)
            described[part] = {field: described[part][field] for field in shared} | {"name": values[name]}
    for name, (part, key) in located.items():
        _set(described[part] if part else described, key, values[name])
    return RunSettings.from_dict(described)


def _set(described: dict[str, Any], key: str, value: Any) -> None:
    """Set one of the settings of a group, or one of the options by name that a setting holds, as options.width."""
    field, is_option, option = key.partition(".")
    if is_option and isinstance(described.get(field), dict):
        described[field] = described[field] | {option: value}
    else:
        described[key] = value


def check_names(settings: RunSettings, names: Iterable[str]) -> None:
    """Raise `UserError` for a name without a setting, or of a setting that a search cannot change."""
    names = list(names)
    searched = {full_name(name) for name in names}
    for name in names:
        part, key = _locate(name)
        if not part:
            continue
        owner = type(getattr(settings, part))
        field, _, option = key.partition(".")
        # Each option has settings of its own; `apply_values` checks them for the option that is drawn.
        is_known = field in field_types(owner) and (not option or field_types(owner)[field] == dict[str, Any])
        if not is_known and f"{part}.name" not in searched:
            raise UserError(
                GROUPS[part].refusal(key, owner) if part in GROUPS else checks.unknown_setting(name, field_types(owner))
            )


def format_values(values: Mapping[str, Any]) -> str:
    """Return `values` as one would set them, floats with three digits: "train.lr=0.00316, partition.at=[2,4]"."""
    return ", ".join(f"{name}={format_setting(value, digits=3)}" for name, value in values.items())


def _locate(name: str) -> tuple[str, str]:
    """Return the part of `RunSettings` that a setting is in, or an empty text if it is in none, and its name there."""
    part, has_key, key = full_name(name).partition(".")
    for fixed in (part, full_name(name)):
        if fixed in _NOT_SEARCHABLE:
            raise UserError(f"{name} cannot be searched: {_NOT_SEARCHABLE[fixed]}; give it one value")

    types = field_types(RunSettings)
    if part not in types:
        raise UserError(checks.unknown_setting(part, types))
    if is_dataclass(types[part]) and not has_key:
        raise UserError(f"{name} is a group of settings; name one of them, as {name}.<setting>")
    return (part, key) if is_dataclass(types[part]) else ("", full_name(name))
