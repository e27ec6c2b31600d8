"""Rows of equal keys as CSV and as Markdown."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from partrain.storage import checkpoint


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `rows`, which have the same keys; None is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    checkpoint.write_text(path, text.getvalue())


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """`rows`, which have the same keys, as a Markdown table."""
    columns = list(rows[0]) if rows else []
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_shown(each[column]) for column in columns) + " |" for each in rows]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    """Four digits of a float; whole numbers and text as they are."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value).replace("|", "\\|")
