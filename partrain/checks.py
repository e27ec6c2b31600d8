"""Checks of settings whose messages all have one form: the setting's name, what was found, and what is expected."""

import difflib
import importlib
import math
import os
import sys
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from partrain.errors import UserError

_TYPES_IN_WORDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    list[int]: "a list of integers",
    list[float]: "a list of numbers",
    list[str]: "a list of texts",
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


def of_type(name: str, value: object, hint: Any) -> Any:
    """Return `value` as the type `hint`, as a dataclass field declares it.

    A number of NumPy's counts as one of Python's, an integer also as a float, a path as text, and a tuple as a list.

    Raises:
        UserError: If `value` has another type, or is a number that is not finite.
    """
    for member in union_members(hint):
        converted = _converted(value, member)
        if converted is not _NOT_OF_TYPE:
            for number in converted if isinstance(converted, list) else [converted]:
                if isinstance(number, float) and not math.isfinite(number):
                    raise UserError(f"{name} must be a finite number, got {number}")
            return converted
    raise UserError(f"{name}: {value!r} is not {describe_type(hint)}")


_NOT_OF_TYPE = object()


def _converted(value: Any, hint: Any) -> Any:
    """Return `value` as the type `hint`, or `_NOT_OF_TYPE` if it has another one."""
    if hint is Any:
        return value
    if getattr(value, "ndim", None) == 0:  # A scalar of NumPy's or PyTorch's.
        value = value.item()
    origin = get_origin(hint) or hint
    if origin is list and isinstance(value, list | tuple):
        return _converted_items(value, get_args(hint)[0])
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, bool):
        return value if hint is bool else _NOT_OF_TYPE
    if origin in (int, float) and isinstance(value, Integral if origin is int else Real):
        return origin(value)
    if origin is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    return value if isinstance(value, origin) else _NOT_OF_TYPE


def _converted_items(values: Iterable[Any], hint: Any) -> Any:
    """Return a list of `values` as the type `hint`, or `_NOT_OF_TYPE` if any has another one."""
    items = []
    for value in values:
        candidates = [_converted(value, member) for member in union_members(hint)]
        matching = [item for item in candidates if item is not _NOT_OF_TYPE]
        if not matching:
            return _NOT_OF_TYPE
        items.append(matching[0])
    return items


def union_members(hint: Any) -> tuple[Any, ...]:
    """Return the types in a union, or the one type that `hint` is."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def describe_type(hint: Any) -> str:
    """Return a type in words, e.g. "an integer or text"."""
    members = [member for member in union_members(hint) if member is not NoneType]
    return " or ".join(_TYPES_IN_WORDS.get(member) or f"an instance of {member.__name__}" for member in members)


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


def make_object(group: str, path: str, options: Mapping[str, Any]) -> Any:
    """Return what a user's own function or class, named by `<group>.name`, makes of `<group>.options`.

    Args:
        group: The group of settings, for the error.
        path: The function or class; see `import_object`.
        options: Its keyword arguments.

    Raises:
        UserError: If it cannot be imported, or not be called so.
    """
    make = import_object(f"{group}.name", path)
    try:
        return make(**options)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{group}.name={path} failed with {group}.options={options} ({error}). Correct it or the options."
        ) from None
