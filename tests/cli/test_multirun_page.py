"""Tests of the page over the runs of a multirun, and that plotly is imported only for pages."""

import shutil
import subprocess
import sys
from pathlib import Path

from browser import open_page
from pages import read_figures, read_table

from partrain.cli.multirun import make_row, write_report
from partrain.runs.page import write_run_page
from partrain.storage import checkpoint


def test_the_page_of_a_multirun_with_a_run_that_failed(run: Path, tmp_path: Path) -> None:
    write_run_page(run)
    shutil.copytree(run, tmp_path / "0")
    shutil.copytree(run, tmp_path / "2")
    results = checkpoint.read_json(tmp_path / "2" / "results.json")
    checkpoint.write_json(tmp_path / "2" / "results.json", results | {"test_accuracy": 0.5, "traffic_bytes": 3 * 2**20})
    rows = [
        make_row(tmp_path / "0", "seed=0 labels=simplex", "done"),
        make_row(tmp_path / "1", "seed=1 labels=simplex", "it failed"),
        make_row(tmp_path / "2", "seed=2 labels=simplex", "done"),
    ]
    write_report(rows, tmp_path)
    page = tmp_path / "report.html"
    assert "2 of 3 runs done" in page.read_text()
    cells = read_table(page, "Runs")
    assert [line[0] for line in cells] == ["run", "0", "1", "2"]
    assert [line[-1] for line in cells] == ["outcome", "done", "it failed", "done"]
    drawn = read_figures(page)
    accuracy = drawn["Test accuracy"]["data"][0]
    assert accuracy["y"] == ["0 seed=0", "2 seed=2"]
    assert accuracy["x"] == [100 * results["test_accuracy"], 50]
    assert drawn["Traffic"]["data"][0]["x"] == [0, 3]
    peaks = [segment["peak_memory_bytes"] / 2**20 for segment in results["segments"]]
    assert [bars["x"][0] for bars in drawn["Memory"]["data"]] == [max(peaks), sum(peaks)]
    for which, index in (("First", 0), ("Last", 1)):
        curves = read_figures(tmp_path / "0" / "report.html")["Training loss"]["data"][index]["y"]
        assert [line["y"] for line in drawn[f"{which} segment: loss"]["data"]] == [curves, curves]
    script = "answers.links = [...document.querySelectorAll('tbody a')].map((a) => a.getAttribute('href'));"
    answers, console = open_page(page, script, tmp_path / "browser")
    assert console == []
    assert answers == {"links": ["0/report.html", "2/report.html"], "requests": []}


def test_plotly_is_not_imported_before_a_page_is_written() -> None:
    modules = "partrain, partrain.cli.config, partrain.launch.worker, partrain.training.segment, partrain.cli.multirun"
    program = f"import sys, {modules}; print('plotly' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
