"""Tests of the pages in a browser: drawn figures, sorted tables, both themes, no errors and no network."""

from pathlib import Path

import pytest
from browser import open_page
from pages import read_figures, read_table

from partrain.report.page import Link, RunsPage, write_runs_page
from partrain.report.plotly_figures import Plot, make_figure
from partrain.runs.page import write_run_page

DRAWN = """
  answers.drawn = document.querySelectorAll(".plot .main-svg").length > 0
    && [...document.querySelectorAll(".plot")].map((place) => place.querySelectorAll(".main-svg").length > 0);
  answers.wider = document.documentElement.scrollWidth > innerWidth;
  answers.background = getComputedStyle(document.body).backgroundColor;
  answers.ink = getComputedStyle(document.querySelector(".plot .xtitle")).fill;
"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 500])
def test_a_runs_page_is_drawn(run: Path, tmp_path: Path, *, dark: bool, width: int) -> None:
    page = write_run_page(run)
    answers, console = open_page(page, DRAWN, tmp_path, dark=dark, width=width)
    assert console == []
    assert answers["requests"] == []
    assert answers["drawn"] == [True] * len(read_figures(page))
    assert not answers["wider"]
    assert answers["background"] == ("rgb(15, 20, 26)" if dark else "rgb(246, 247, 249)")
    assert answers["ink"] == ("rgb(230, 235, 240)" if dark else "rgb(22, 32, 43)")


def test_the_theme_is_switched_and_figures_follow(run: Path, tmp_path: Path) -> None:
    script = """
      answers.before = getComputedStyle(document.querySelector(".plot .xtitle")).fill;
      document.getElementById("theme").click();
      await new Promise((resolve) => setTimeout(resolve, 500));
      answers.after = getComputedStyle(document.querySelector(".plot .xtitle")).fill;
      answers.background = getComputedStyle(document.body).backgroundColor;
    """
    answers, console = open_page(write_run_page(run), script, tmp_path)
    assert console == []
    assert (answers["before"], answers["after"]) == ("rgb(22, 32, 43)", "rgb(230, 235, 240)")
    assert answers["background"] == "rgb(15, 20, 26)"


def test_a_live_page_reloads_and_keeps_its_place(run: Path, tmp_path: Path) -> None:
    script = """
      if (performance.getEntriesByType("navigation")[0].type !== "reload" && !sessionStorage.getItem("seen")) {
        sessionStorage.setItem("seen", "1");
        scrollTo({ top: 700, behavior: "instant" });
        document.querySelector("details").open = true;
        location.reload();
        return;
      }
      answers.top = scrollY;
      answers.open = document.querySelector("details").open;
      answers.refresh = document.querySelector("meta[http-equiv=refresh]").content;
    """
    answers, console = open_page(write_run_page(run, refresh=600), script, tmp_path)
    write_run_page(run)
    assert console == []
    assert answers == {"top": 700, "open": True, "refresh": "600", "requests": []}


def test_tables_are_sorted_by_a_click(tmp_path: Path) -> None:
    rows = [
        {"run": Link("b", "b/report.html"), "overrides": "seed=10", "accuracy": 9.5, "seconds": None, "note": ""},
        {"run": "a", "overrides": "seed=9", "accuracy": 10.25, "seconds": 3, "note": ""},
        {"run": "c", "overrides": "seed=1", "accuracy": -1.0, "seconds": 1200, "note": ""},
    ]
    figure = make_figure("x", "y")
    figure.add_scatter(x=[1, 2], y=[1, 2])
    page = write_runs_page(tmp_path, RunsPage(title="Some runs", rows=rows, plots=[Plot("One", "A caption.", figure)]))
    assert read_table(page, "Runs") == [
        ["run", "overrides", "accuracy", "seconds"],
        ["b", "seed=10", "9.5", ""],
        ["a", "seed=9", "10.25", "3"],
        ["c", "seed=1", "-1.0", "1,200"],
    ]
    script = """
      const names = () => [...document.querySelectorAll("tbody tr")].map((row) => row.cells[0].textContent).join("");
      const click = (column) => { document.querySelectorAll("th button")[column].click(); return names(); };
      answers.orders = [click(0), click(0), click(1), click(2), click(2), click(3), click(3)];
      answers.sorted = [...document.querySelectorAll("th")].map((head) => head.getAttribute("aria-sort"));
      answers.link = document.querySelector("tbody a").getAttribute("href");
    """
    answers, console = open_page(page, script, tmp_path / "browser")
    assert console == []
    assert answers["orders"] == ["abc", "cba", "cab", "cba", "abc", "acb", "cab"]
    assert answers["sorted"] == [None, None, None, "descending"]
    assert answers["link"] == "b/report.html"
