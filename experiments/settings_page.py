"""The page docs/settings.md: every setting of every option with its default and its sentence, from the schemas.

    python experiments/settings_page.py

A test checks that the page is what this script writes.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from partrain import checks
from partrain.comparison.grid import GridSettings
from partrain.options import field_defaults, field_types
from partrain.settings import GROUPS, RunSettings
from partrain.tuning.settings import SearchSettings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
_HEAD = """\
# Settings

Every setting of a run, a search and a comparison. On a command line it is set as `name=value`, in Python by the class
beside it; `partrain train --help` shows the values that a command composes. A setting that belongs to an option, such
as `labels.density` to `labels=sparse`, is refused with any other option of its group.

This page is written by `python experiments/settings_page.py`.
"""


def sentences(settings: type) -> dict[str, str]:
    """Return the sentence below each field of a class of settings, by the field's name, empty where there is none."""
    found: dict[str, str] = {}
    for owner in reversed(settings.__mro__):
        if not is_dataclass(owner):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(body, ast.ClassDef)
        found |= dict(_sentences_in(body))
    return {name: found.get(name, "") for name in field_types(settings)}


def _sentences_in(body: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Yield the name of each annotated attribute of a class, and the string literal below it on one line."""
    for statement, following in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            literal = following.value if isinstance(following, ast.Expr) else None
            text = literal.value if isinstance(literal, ast.Constant) and isinstance(literal.value, str) else ""
            yield statement.target.id, " ".join(text.split())


def page() -> str:
    """Return the text of the page."""
    parts = [_HEAD]
    for name, settings in field_types(RunSettings).items():
        if name in GROUPS:
            parts.append(_group(name))
        elif is_dataclass(settings):
            parts.append(_table(name, settings, level=2))
        else:
            parts.append(f"## `{name}`\n\n{_rows(RunSettings, '', [name])}")
    parts += [_table("search", SearchSettings, level=2), _table("grid", GridSettings, level=2)]
    return "\n".join(parts)


def _group(group: str) -> str:
    """Return the part of the page about a group with options: what all share, then each option's own."""
    options = GROUPS[group]
    default = options.name_of(type(getattr(RunSettings(), group)))
    text = [f"## `{group}`\n\n{sentences(RunSettings)[group]} By default `{group}={default}`.\n"]
    shared = [name for name in field_types(options.base) if name != "name"]
    if shared:
        text.append(f"All options have:\n\n{_rows(options.base, f'{group}.', shared)}")
    for option, settings in options.classes.items():
        own = [name for name in field_types(settings) if name not in shared and (name != "name" or settings.is_family)]
        text.append(f"### `{group}={option}` (`{settings.__name__}`)\n\n{_first_line(settings)}\n")
        if own:
            text.append(_rows(settings, f"{group}.", own))
    return "\n".join(text)


def _table(group: str, settings: Any, level: int) -> str:
    """Return the part of the page about a group without options."""
    heading = f"{'#' * level} `{group}` (`{settings.__name__}`)"
    return f"{heading}\n\n{_first_line(settings)}\n\n{_rows(settings, f'{group}.', list(field_types(settings)))}"


def _first_line(settings: type) -> str:
    return (settings.__doc__ or "").splitlines()[0]


def _rows(settings: type, prefix: str, names: list[str]) -> str:
    """Return a table of some fields of a class: name, type, default and sentence."""
    types, defaults, texts = field_types(settings), field_defaults(settings), sentences(settings)
    lines = ["| setting | type | default | |", "| --- | --- | --- | --- |"]
    for name in names:
        kind = checks.describe_type(types[name]) + (
            " or null" if type(None) in checks.union_members(types[name]) else ""
        )
        lines.append(f"| `{prefix}{name}` | {kind} | {_shown(defaults[name])} | {texts[name].replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    """Return a default as one would set it."""
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value == "":
        return "must be given"
    return f"`{value}`" if not isinstance(value, list) else f"`[{','.join(map(str, value))}]`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
