"""Tests of the progress display: bars on a terminal, lines elsewhere."""

import io

import pytest
from rich.console import Console

from partrain.console import ProgressDisplay


@pytest.mark.parametrize(("percentage", "said"), [(True, 1), (False, 0)])
def test_a_bar_says_its_percentage_where_that_is_asked_for(percentage: bool, said: int) -> None:
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, color_system=None, width=100)
    with ProgressDisplay(show_percentage=percentage, output=terminal) as progress:
        progress.add("images", "preparing", 4)
        progress.advance("images", 1)
    last = out.getvalue().split("\r")[-1]
    assert "preparing" in last
    assert last.count("25%") == said


def test_a_bar_that_is_added_again_begins_anew() -> None:
    out = io.StringIO()
    with ProgressDisplay(show_percentage=True, output=Console(file=out, force_terminal=True, width=100)) as progress:
        progress.add("images", "preparing", 4, completed=4)
        progress.add("images", "once more", 4)
    last = out.getvalue().split("\r")[-1]
    assert "once more" in last
    assert "preparing" not in last


def test_where_nobody_watches_there_are_lines_and_no_bars() -> None:
    out = io.StringIO()
    with ProgressDisplay(output=Console(file=out, width=100)) as progress:
        progress.add("images", "preparing", 4)
        progress.advance("images", 4)
        progress.print_line("half done")
    assert out.getvalue() == "half done\n"
