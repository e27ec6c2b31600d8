"""Tables of rows with the same keys, written as CSV and as Markdown."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from partrain.storage import checkpoint


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `rows`, which have the same keys, to a CSV file with a heading. None becomes an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    checkpoint.write_text(path, text.getvalue())


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of `rows`, which have the same keys. Floats have four significant digits."""
    columns = list(rows[0]) if rows else []
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_format_value(row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _format_value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value).replace("|", "\\|")
