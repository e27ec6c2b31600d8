"""Checks of settings whose messages all have one form: the setting's name, what was found, and what is expected."""

import difflib
import importlib
import os
import sys
from collections.abc import Collection, Iterable
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from partrain.errors import UserError

_TYPES_IN_WORDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    list[int]: "a list of integers",
    list[int | str]: "a list of layer numbers and module names",
    dict[str, Any]: "a mapping",
}


def at_least(name: str, value: float, lowest: float) -> None:
    """Raise `UserError` unless `value` >= `lowest`."""
    if not value >= lowest:
        raise UserError(f"{name} must be at least {lowest}, got {value}")


def above(name: str, value: float, bound: float) -> None:
    """Raise `UserError` unless `value` > `bound`."""
    if not value > bound:
        raise UserError(f"{name} must be greater than {bound}, got {value}")


def within(name: str, value: float, lowest: float, highest: float) -> None:
    """Raise `UserError` unless `lowest` <= `value` <= `highest`."""
    if not lowest <= value <= highest:
        raise UserError(f"{name} must be between {lowest} and {highest}, got {value}")


def one_of(name: str, value: object, known: Collection[str]) -> None:
    """Raise `UserError` with a list of the `known` values unless `value` is one of them."""
    if value not in known:
        raise UserError(f"{name}={value} is unknown; known: {', '.join(sorted(known))}")


def of_type(name: str, value: object, hint: Any) -> None:
    """Raise `UserError` unless `value` has the type `hint`, as a dataclass field declares it."""
    if not matches_type(value, hint):
        raise UserError(f"{name}: {value!r} is not {describe_type(hint)}")


def matches_type(value: object, hint: Any) -> bool:
    """Return whether `value` has the type `hint`. An integer is also a number, while True is neither."""
    if hint is Any:
        return True
    if len(union_members(hint)) > 1:
        return any(matches_type(value, member) for member in union_members(hint))
    if get_origin(hint) is list:
        return isinstance(value, list) and all(matches_type(item, get_args(hint)[0]) for item in value)
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, int | float)
    return isinstance(value, get_origin(hint) or hint)


def union_members(hint: Any) -> tuple[Any, ...]:
    """Return the types in a union, or the one type that `hint` is."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def describe_type(hint: Any) -> str:
    """Return a type in words, e.g. "an integer or text"."""
    return " or ".join(_TYPES_IN_WORDS[member] for member in union_members(hint) if member is not NoneType)


def unknown_setting(name: str, known: Iterable[str]) -> str:
    """Return the message for the setting `name`, which does not exist among the `known` ones of its group."""
    group, _, setting = name.rpartition(".")
    similar = difflib.get_close_matches(setting, known, n=1)
    if not similar:
        return f"{name} is not a setting; --help lists them"
    suggestion = f"{group}.{similar[0]}" if group else similar[0]
    return f"{name} is not a setting; did you mean {suggestion}?"


def import_object(name: str, path: str) -> Any:
    """Return the object at the path "module:attribute", such as a user's own network or label family.

    The module may also be in the working directory, even if the script that runs is in another folder.

    Args:
        name: The name of the setting that holds the path, for the error.
        path: The path, e.g. "my_package.my_module:MyClass".

    Raises:
        UserError: If `path` has another form, or if the import fails.
    """
    module, colon, attribute = path.partition(":")
    if not colon:
        raise UserError(f"{name}={path}: expected 'module:attribute', e.g. my_package.my_module:MyClass")
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{name}={path}: {error}; the module must be importable from the working directory") from None
