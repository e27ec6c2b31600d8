"""A configuration's values put into settings, by the settings' dotted names."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_type_hints

from partrain import checks
from partrain.errors import UserError
from partrain.networks import NETWORKS
from partrain.report.formatting import format_setting
from partrain.settings import GROUPS, RunSettings

# settings that are the same in all configurations, by name or group
_SHARED = {
    "train.epochs": "it is what the last rungs train until",
    "partition.dry_run": "it trains nothing",
    "data": "scores on different data cannot be compared",
    "launch": "where and how fast a network trains does not make it better",
    "report": "a page does not make a network better",
}


def full_name(name: str) -> str:
    """A group's name alone stands for the setting that says which option it is: labels -> labels.family."""
    return f"{name}.{GROUPS[name]}" if name in GROUPS else name


def settings_with(settings: RunSettings, values: Mapping[str, Any]) -> RunSettings:
    """`settings` with `values` in place of their own; a network of another kind has that kind's defaults otherwise.

    Raises:
        ValueError: there is no such setting, a search cannot change it, or it cannot have that value.
    """
    parts: dict[str, dict[str, tuple[str, Any]]] = {}
    for name, value in values.items():
        part, key = _place(name)
        parts.setdefault(part, {})[key] = (name, value)
    own = _fitting(RunSettings, parts.pop("", {}))
    return replace(settings, **own, **{part: _with(part, getattr(settings, part), parts[part]) for part in parts})


def check_names(settings: RunSettings, names: Iterable[str]) -> None:
    """Raise `ValueError` for a name that is no setting's, or that of one which a search cannot change."""
    names = list(names)
    any_network = "network.kind" in map(full_name, names)  # whose settings are those of several kinds
    for name in names:
        part, key = _place(name)
        if not (part == "network" and any_network):
            _hint(name, key, type(getattr(settings, part)) if part else RunSettings)


def described(values: Mapping[str, Any]) -> str:
    """{"train.lr": 0.0031623, "partition.at": [2, 4]} -> "train.lr=0.00316, partition.at=[2,4]"."""
    return ", ".join(f"{name}={format_setting(value, digits=3)}" for name, value in values.items())


def _place(name: str) -> tuple[str, str]:
    """The part of the settings that `name` is in ("": none), and what it is called there."""
    part, dot, key = full_name(name).partition(".")
    for shared in (part, full_name(name)):
        if shared in _SHARED:
            raise UserError(f"{name} cannot be searched: {_SHARED[shared]}; give it one value")
    known = {each.name: is_dataclass(each.default_factory) for each in fields(RunSettings)}
    if part not in known:
        raise UserError(checks.no_setting(part, known))
    if known[part] and not dot:
        raise UserError(f"{name} is a group of settings; name one of them, as {name}.<setting>")
    return (part, key) if known[part] else ("", full_name(name))


def _with(part: str, settings: Any, changed: dict[str, tuple[str, Any]]) -> Any:
    """`settings`, which are `part`, with the values in `changed`, by key, each beside its full name."""
    owner = type(settings)
    if part == "network" and "kind" in changed:
        kind = _fitting(owner, {"kind": changed["kind"]})["kind"]
        checks.one_of("network", kind, NETWORKS)
        if kind != settings.kind:
            return NETWORKS[kind](**_fitting(NETWORKS[kind], changed))
    options = {key: getattr(settings, key) for key, hint in get_type_hints(owner).items() if hint == dict[str, Any]}
    return replace(settings, **_fitting(owner, changed, options))


def _fitting(
    owner: type, changed: Mapping[str, tuple[str, Any]], options: Mapping[str, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The values of `changed`, checked, by the fields of `owner`; single ones are added to `options`."""
    found: dict[str, Any] = {}
    for key, (name, value) in changed.items():
        hint = _hint(name, key, owner)
        checks.of_type(name, value, hint)
        field, dot, option = key.partition(".")
        if dot:
            found[field] = found.get(field, (options or {}).get(field, {})) | {option: value}
        else:
            found[field] = float(value) if type(value) is int and int not in checks.alternatives(hint) else value
    return found


def _hint(name: str, key: str, owner: type) -> Any:
    """What the values of `owner`'s field `key` can be, or of a single option (`options.width`)."""
    hints = get_type_hints(owner)
    field, dot, _ = key.partition(".")
    if dot and hints.get(field) == dict[str, Any]:
        return Any
    if key not in hints:
        raise UserError(checks.no_setting(name, hints))
    return hints[key]
