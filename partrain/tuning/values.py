"""Values of searched settings: put into a run's settings by dotted names such as train.lr, checked, and shown as text."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, get_type_hints

from partrain import checks
from partrain.errors import UserError
from partrain.networks import NETWORKS
from partrain.report.formatting import format_setting
from partrain.settings import OPTION_FIELDS, RunSettings

# Why these settings and groups of settings have the same value in all trials.
_NOT_SEARCHABLE = {
    "train.epochs": "it is how long the last rungs train",
    "partition.dry_run": "a dry run trains nothing",
    "data": "scores on different data cannot be compared",
    "grouping": "which trainings share a process does not make a network better",
    "launch": "where and how fast a network trains does not make it better",
    "report": "a page does not make a network better",
}


@dataclass(frozen=True)
class _Change:
    """A new value for one setting."""

    name: str
    """The setting's name as the search space has it, for messages."""
    part: str
    """The field of `RunSettings` that the setting is in, or an empty text for a field of `RunSettings` itself."""
    key: str
    """The name within that part. A single option of a field of options is `<field>.<option>`."""
    value: Any


def full_name(name: str) -> str:
    """Return the name of the setting that a group's name alone stands for, as labels.family for labels."""
    return f"{name}.{OPTION_FIELDS[name]}" if name in OPTION_FIELDS else name


def apply_values(settings: RunSettings, values: Mapping[str, Any]) -> RunSettings:
    """Return a copy of `settings` with `values` in place of its own.

    Where the kind of network changes, the network's other settings are the defaults of the new kind.

    Args:
        settings: The settings that all trials have in common.
        values: New values by the settings' dotted names.

    Raises:
        UserError: If there is no such setting, a search cannot change it, or it cannot have that value.
    """
    changes: dict[str, list[_Change]] = {}
    for name, value in values.items():
        part, key = _locate(name)
        changes.setdefault(part, []).append(_Change(name, part, key, value))
    top_level = _field_values(RunSettings, changes.pop("", []))
    parts = {part: _replace_part(getattr(settings, part), changes[part]) for part in changes}
    return replace(settings, **top_level, **parts)


def check_names(settings: RunSettings, names: Iterable[str]) -> None:
    """Raise `UserError` for a name without a setting, or of a setting that a search cannot change."""
    names = list(names)
    searches_network_kind = "network.kind" in map(full_name, names)
    for name in names:
        part, key = _locate(name)
        if part == "network" and searches_network_kind:
            continue  # Each kind has settings of its own; `apply_values` checks them for the kind that is drawn.
        _type_hint(name, key, type(getattr(settings, part)) if part else RunSettings)


def format_values(values: Mapping[str, Any]) -> str:
    """Return `values` as one would set them, floats with three digits: "train.lr=0.00316, partition.at=[2,4]"."""
    return ", ".join(f"{name}={format_setting(value, digits=3)}" for name, value in values.items())


def _locate(name: str) -> tuple[str, str]:
    """Return the part of `RunSettings` that a setting is in, and its name there (see `_Change`)."""
    part, has_key, key = full_name(name).partition(".")
    for fixed in (part, full_name(name)):
        if fixed in _NOT_SEARCHABLE:
            raise UserError(f"{name} cannot be searched: {_NOT_SEARCHABLE[fixed]}; give it one value")

    is_group = {field.name: is_dataclass(field.default_factory) for field in fields(RunSettings)}
    if part not in is_group:
        raise UserError(checks.unknown_setting(part, is_group))
    if is_group[part] and not has_key:
        raise UserError(f"{name} is a group of settings; name one of them, as {name}.<setting>")
    return (part, key) if is_group[part] else ("", full_name(name))


def _replace_part(settings: Any, changes: Sequence[_Change]) -> Any:
    """Return a copy of one part of the run's settings with `changes`, or the settings of another kind of network."""
    owner = type(settings)
    new_kind = next((change for change in changes if change.part == "network" and change.key == "kind"), None)
    if new_kind is not None:
        kind = _field_values(owner, [new_kind])["kind"]
        checks.one_of("network", kind, NETWORKS)
        if kind != settings.kind:
            return NETWORKS[kind](**_field_values(NETWORKS[kind], changes))
    options = {key: getattr(settings, key) for key, hint in get_type_hints(owner).items() if hint == dict[str, Any]}
    return replace(settings, **_field_values(owner, changes, options))


def _field_values(
    owner: type, changes: Sequence[_Change], options: Mapping[str, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Return the changed fields of the dataclass `owner`, after checking each value against its field's type.

    Args:
        owner: The dataclass of a part of the settings.
        changes: The changes, all of them to that part.
        options: Present values of the fields that hold options by name. Changed options are added to them.
    """
    options = options or {}
    values: dict[str, Any] = {}
    for change in changes:
        hint = _type_hint(change.name, change.key, owner)
        checks.of_type(change.name, change.value, hint)
        field, is_option, option = change.key.partition(".")
        if is_option:
            present = values.get(field, options.get(field, {}))
            values[field] = present | {option: change.value}
        elif type(change.value) is int and int not in checks.union_members(hint):
            values[field] = float(change.value)
        else:
            values[field] = change.value
    return values


def _type_hint(name: str, key: str, owner: type) -> Any:
    """Return the type of the field `key` of the dataclass `owner`, or `Any` for a single option (`options.width`)."""
    hints = get_type_hints(owner)
    field, is_option, _ = key.partition(".")
    if is_option and hints.get(field) == dict[str, Any]:
        return Any
    if key not in hints:
        raise UserError(checks.unknown_setting(name, hints))
    return hints[key]
