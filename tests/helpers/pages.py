"""What a page holds, read out of its HTML."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any


def read_figures(page: Path) -> dict[str, Any]:
    """The figures by title, as plotly's JavaScript is given them."""
    found = re.findall(
        r'aria-label="([^"]*)"></div>\s*<script type="application/json">(.*?)</script>', page.read_text(), re.DOTALL
    )
    return {unescape(title): json.loads(text) for title, text in found}


def read_table(page: Path, label: str) -> list[list[str]]:
    """The texts of a table's cells, its head first."""
    text = page.read_text()
    body = text[text.index(f'role="region" aria-label="{label}"') :]
    rows = re.findall(r"<tr>(.*?)</tr>", body[: body.index("</table>")], re.DOTALL)
    return [[visible_text(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)] for row in rows]


def visible_text(html: str) -> str:
    """The text alone."""
    return unescape(re.sub(r"<[^>]*>", "", html)).strip()
