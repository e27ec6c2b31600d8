"""Checks of settings, with one form of message: the setting's name, what was found, what is expected."""

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
    """Raise `ValueError` unless `value` >= `lowest`."""
    if not value >= lowest:
        raise UserError(f"{name} must be at least {lowest}, got {value}")


def above(name: str, value: float, bound: float) -> None:
    """Raise `ValueError` unless `value` > `bound`."""
    if not value > bound:
        raise UserError(f"{name} must be greater than {bound}, got {value}")


def within(name: str, value: float, lowest: float, highest: float) -> None:
    """Raise `ValueError` unless `lowest` <= `value` <= `highest`."""
    if not lowest <= value <= highest:
        raise UserError(f"{name} must be between {lowest} and {highest}, got {value}")


def one_of(name: str, value: object, known: Collection[str]) -> None:
    """Raise `ValueError` that lists the `known` values unless `value` is one of them."""
    if value not in known:
        raise UserError(f"{name}={value} is unknown; known: {', '.join(sorted(known))}")


def of_type(name: str, value: object, hint: Any) -> None:
    """Raise `ValueError` unless `value` is what a field's type `hint` says."""
    if not fits(value, hint):
        raise UserError(f"{name}: {value!r} is not {in_words(hint)}")


def fits(value: object, hint: Any) -> bool:
    """Whether `value` is what a type `hint` says; an integer is a number, true is not."""
    if hint is Any:
        return True
    if len(alternatives(hint)) > 1:
        return any(fits(value, kind) for kind in alternatives(hint))
    if get_origin(hint) is list:
        return isinstance(value, list) and all(fits(each, get_args(hint)[0]) for each in value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else get_origin(hint) or hint)


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type that `hint` is."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def in_words(hint: Any) -> str:
    """A type as people call it: "an integer or text"."""
    return " or ".join(_TYPES_IN_WORDS[kind] for kind in alternatives(hint) if kind is not NoneType)


def no_setting(name: str, known: Iterable[str]) -> str:
    """The message for a setting that does not exist, beside `known` ones of its group."""
    group = name.rpartition(".")[0]
    near = difflib.get_close_matches(name.rpartition(".")[2], known, n=1)
    hint = f"did you mean {f'{group}.' if group else ''}{near[0]}?" if near else "--help lists them"
    return f"there is no setting {name}; {hint}"


def imported(name: str, path: str) -> Any:
    """The object at "module:attribute", for the user's own networks and label families.

    The module is looked for in the working directory too, also where a script of another folder runs.

    Raises:
        ValueError: `path` is not of that form, or nothing is there.
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
