"""Readers of the HTML pages: their figures, their tables and their text."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any


def read_figures(page: Path) -> dict[str, Any]:
    """Return the page's figures by title, as the JSON that plotly's JavaScript draws."""
    figures = re.findall(
        r'aria-label="([^"]*)"></div>\s*<script type="application/json">(.*?)</script>', page.read_text(), re.DOTALL
    )
    return {unescape(title): json.loads(text) for title, text in figures}


def read_table(page: Path, label: str) -> list[list[str]]:
    """Return the texts of the cells of the table called `label`, row by row, the headings first."""
    text = page.read_text()
    body = text[text.index(f'role="region" aria-label="{label}"') :]
    rows = re.findall(r"<tr>(.*?)</tr>", body[: body.index("</table>")], re.DOTALL)
    return [[visible_text(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)] for row in rows]


def visible_text(html: str) -> str:
    """Return the text of `html` without tags and character references."""
    return unescape(re.sub(r"<[^>]*>", "", html)).strip()
