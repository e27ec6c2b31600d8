"""Tests of the tables, the summary and the figures over artificial runs, with numbers computed by hand."""

from typing import Any

import pytest

from partrain.comparison.figures import comparison_plots
from partrain.comparison.grid import Cell
from partrain.comparison.summary import format_summary_row, summarise
from partrain.comparison.table import CellRun, run_json_row, run_row
from partrain.report.tables import markdown_table


def make_cell(strategy: str, segments: int = 2, microbatches: int | None = None) -> Cell:
    """Return a cell of a small MLP."""
    return Cell(strategy=strategy, network="mlp", width=32, segments=segments, batch_size=50, microbatches=microbatches)


def make_run(cell: Cell, repeat: int, speed: float, **results: Any) -> CellRun:
    """Return a run of two processes with peaks of 300 and 200 bytes, at `speed` samples per second."""
    process = {
        "device": "cpu",
        "train_seconds": 1.0,
        "samples_per_second": speed,
        "utilization": 0.5,
        "parameter_bytes": 100,
        "optimizer_state_bytes": 80,
        "sent_bytes": 10,
        "received_bytes": 10,
    }
    facts = {
        "test_accuracy": 0.8,
        "train_seconds": 2.0,
        "step_seconds": 1.0,
        "samples_per_second": speed,
        "segments": [process | {"peak_memory_bytes": 300}, process | {"peak_memory_bytes": 200}],
        "steps": 10,
        "traffic_bytes": 20,
        "traffic_bytes_per_step": 2.0,
        "utilization": 0.75,
        "accuracy_curve": [],
    }
    return CellRun(cell=cell, repeat=repeat, seed=repeat, results=facts | results)


def curve(*points: tuple[float, float]) -> list[dict[str, float]]:
    """Return an accuracy curve of (seconds, accuracy) points."""
    return [{"seconds": seconds, "test_accuracy": accuracy} for seconds, accuracy in points]


WHOLE, TWO, THREE = make_cell("end_to_end", segments=1), make_cell("synthetic"), make_cell("synthetic", segments=3)
FEW, MANY = make_cell("gpipe", microbatches=2), make_cell("gpipe", microbatches=5)
CELLS = [WHOLE, TWO, THREE, FEW, MANY]
RUNS = [
    make_run(WHOLE, 0, 100.0, test_accuracy=0.80, accuracy_curve=curve((1, 0.5), (2, 0.7), (3, 0.6), (4, 0.8))),
    make_run(WHOLE, 1, 200.0, test_accuracy=0.84, accuracy_curve=curve((1, 0.4), (6, 0.7))),
    make_run(WHOLE, 2, 50.0, test_accuracy=0.88, accuracy_curve=curve((1, 0.4), (2, 0.6))),
    make_run(TWO, 0, 150.0),
    make_run(TWO, 1, 400.0),
    make_run(TWO, 2, 50.0),
    make_run(THREE, 1, 300.0),
    make_run(FEW, 0, 50.0, traffic_bytes_per_step=4.0),
    make_run(FEW, 1, 100.0, traffic_bytes_per_step=8.0),
    make_run(MANY, 0, 120.0),
    CellRun(cell=MANY, repeat=1, seed=1, results={}, outcome="process 0 was killed by SIGKILL"),
]


def test_the_summary_of_made_runs() -> None:
    whole, two, three, few, many = summarise(RUNS, CELLS, accuracies=[0.7, 0.8])
    speed = ("samples_per_second", "samples_per_second_min", "samples_per_second_max")
    assert [whole[name] for name in speed] == [100, 50, 200]
    assert whole["synthetic_speedup_k2"] == 1.5  # of 1.5, 2 and 1; the medians' ratio is 1.5 too
    assert whole["synthetic_speedup_k3"] == 1.5  # of the one repeat that both have
    assert (two["synthetic_speedup_k2"], two["synthetic_speedup_k3"]) == (1, None)
    assert three["synthetic_speedup_k3"] == 1
    assert few["synthetic_speedup_k2"] == 3.5  # of 3 and 4, where the medians' ratio is 2
    assert whole["test_accuracy_mean"] == pytest.approx(0.84)
    assert whole["test_accuracy_sd"] == pytest.approx(0.04)
    assert three["test_accuracy_sd"] is None
    assert whole["seconds_to_0.7"] == 6  # of 2, 6 and never
    assert whole["seconds_to_0.8"] is None  # two of three never
    assert (few["peak_memory_bytes"], few["traffic_bytes_per_step"], few["utilization"]) == (300, 6, 0.75)
    assert (many["runs"], many["failed"], many["best_microbatches"]) == (1, 1, True)
    assert (few["best_microbatches"], whole["best_microbatches"]) == (False, None)


def test_the_summary_as_people_read_it() -> None:
    shown = [format_summary_row(summary_row) for summary_row in summarise(RUNS, CELLS, accuracies=[0.7])]
    assert shown[0] == {
        "strategy": "end_to_end",
        "network": "mlp 32",
        "segments K": "1",
        "batch size": "50",
        "microbatches": "",
        "runs": "3",
        "samples/s": "100 (50 – 200)",
        "speedup of synthetic, K = 2": "1.50",
        "speedup of synthetic, K = 3": "1.50",
        "test accuracy, %": "84.00 ± 4.00",
        "peak memory, largest process": "300 bytes",
        "traffic per step": "2 bytes",
        "utilisation, %": "75",
        "seconds to 70 % accuracy": "6.0",
    }
    assert (shown[4]["microbatches"], shown[4]["runs"]) == ("5, best", "1, 1 failed")


def test_the_row_of_a_run() -> None:
    table_row = run_row(RUNS[0], accuracies=[0.7, 0.9])
    assert (table_row["strategy"], table_row["width"], table_row["microbatches"], table_row["seed"]) == (
        "end_to_end",
        32,
        None,
        0,
    )
    assert (table_row["seconds_to_0.7"], table_row["seconds_to_0.9"]) == (2, None)
    assert (table_row["peak_memory_bytes"], table_row["peak_memory_bytes_total"], table_row["parameter_bytes"]) == (
        300,
        500,
        100,
    )
    assert (table_row["steps"], table_row["outcome"]) == (10, "done")
    assert run_json_row(RUNS[0], [])["processes"]["peak_memory_bytes"] == [300, 200]


def test_the_row_of_a_run_that_failed() -> None:
    table_row = run_row(RUNS[-1], accuracies=[0.7])
    assert list(table_row) == list(run_row(RUNS[0], accuracies=[0.7]))
    assert table_row["outcome"] == "process 0 was killed by SIGKILL"
    assert table_row["test_accuracy"] is table_row["seconds_to_0.7"] is table_row["peak_memory_bytes"] is None


def test_a_run_with_a_process_of_unknown_memory() -> None:
    known = make_run(TWO, 0, 150.0)
    processes = known.results["segments"]
    unknown = make_run(WHOLE, 0, 100.0, segments=[processes[0], processes[1] | {"peak_memory_bytes": None}])
    table_row = run_row(unknown, accuracies=[])
    assert table_row["peak_memory_bytes"] is table_row["peak_memory_bytes_total"] is None
    whole, two = summarise([unknown, known], [WHOLE, TWO], accuracies=[])
    assert (whole["peak_memory_bytes"], two["peak_memory_bytes"]) == (None, 300)
    assert format_summary_row(whole)["peak memory, largest process"] == ""
    [memory] = [plot for plot in comparison_plots([unknown, known], [WHOLE, TWO]) if plot.title.startswith("Peak")]
    assert [list(trace.y) for trace in memory.figure.data] == [["synthetic, K = 2"]] * 2
    titles = [plot.title for plot in comparison_plots([unknown], [WHOLE])]
    assert not any(title.startswith("Peak") for title in titles)


def test_markdown() -> None:
    assert markdown_table([{"a": 1234567, "b": 0.123456, "c": None, "d": "x|y"}]) == (
        "| a | b | c | d |\n| --- | --- | --- | --- |\n| 1234567 | 0.1235 |  | x\\|y |\n"
    )


def test_figures_of_a_panel() -> None:
    plots = {plot.title.partition(" · ")[0]: plot.figure for plot in comparison_plots(RUNS, CELLS)}
    assert list(plots) == [
        "Samples per second",
        "Test accuracy",
        "Peak memory",
        "Traffic per step",
        "Test accuracy against time",
    ]
    bars, dots = plots["Samples per second"].data
    assert list(bars.x) == [100, 150, 300, 75, 120]
    assert bars.y[3] == "gpipe, K = 2, 2 microbatches"
    assert len(dots.x) == 10
    assert [len(line.x) for line in plots["Test accuracy against time"].data] == [4, 2, 2]
