"""Tests of comparisons: the order of runs, resuming, failures, and the files and messages of the script."""

import csv
import io
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scripting import DATA, begun_in, run_script, wait_until

from partrain.comparison.compare import alternating_order, check_cells, compare, comparison_command
from partrain.comparison.grid import GridSettings, grid_cells
from partrain.comparison.table import CellRun
from partrain.comparison.view import ComparisonView
from partrain.data import EMNIST, Dataset
from partrain.errors import JobFailed, UserError
from partrain.launch.settings import Local
from partrain.networks import MLP
from partrain.packs.settings import Pack
from partrain.runs.command import local_command, option_words
from partrain.settings import RunSettings
from partrain.storage import checkpoint
from partrain.storage.lock import hold_lock
from partrain.training.optimization import TrainSettings

SHARED = RunSettings(
    network=MLP(depth=3),
    train=TrainSettings(epochs=1, precision="fp32"),
    launch=Local(device="cpu", threads=1),
)
GRID = {"strategies": ["end_to_end", "gpipe"], "widths": [32], "batch_sizes": [32], "microbatches": [2, 4]}
RESULTS = {
    "test_accuracy": 0.5,
    "train_seconds": 1.0,
    "step_seconds": 1.0,
    "samples_per_second": 100.0,
    "accuracy_curve": [],
    "segments": [],
    "traffic_bytes": 0,
    "traffic_bytes_per_step": 0.0,
    "utilization": None,
    "steps": 1,
}


class FakeRuns:
    """A runner that records which runs are done on `dataset`. Runs of the cells in `failing` fail."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.finished: list[str] = []
        self.failing: set[str] = set()

    def compare(self, shared: RunSettings, grid: GridSettings, folder: Path) -> list[CellRun]:
        return compare(shared, grid, folder, self.dataset, runner=self)

    def __call__(self, settings: RunSettings, folder: Path, dataset: Dataset, *, show_progress: bool) -> dict[str, Any]:
        if settings.partition.dry_run:
            return {}
        self.finished.append("/".join(folder.parts[-2:]))
        if folder.parent.name in self.failing:
            raise JobFailed(f"process 0 was killed by SIGKILL; see {folder}/ranks/0/log.txt", is_user_error=True)
        process = dict.fromkeys(
            ("train_seconds", "samples_per_second", "utilization", "sent_bytes", "received_bytes"), 1
        )
        process |= dict.fromkeys(("peak_memory_bytes", "parameter_bytes", "optimizer_state_bytes"), 1)
        results = RESULTS | {"segments": [process | {"device": "cpu"}], "versions": {"torch": "2"}}
        checkpoint.write_json(folder / "results.json", results)
        return results


@pytest.fixture
def runs(small: Dataset) -> FakeRuns:
    return FakeRuns(small)


def test_every_second_repeat_is_done_backwards(runs: FakeRuns, tmp_path: Path) -> None:
    runs.compare(SHARED, GridSettings(**GRID, repeats=2), tmp_path)
    names = ["end_to_end-mlp32-b32", "gpipe-mlp32-k2-b32-m2", "gpipe-mlp32-k2-b32-m4"]
    assert runs.finished == [*(f"{name}/0" for name in names), *(f"{name}/1" for name in reversed(names))]
    assert len(list(alternating_order(grid_cells(GridSettings(**GRID)), 5))) == 15


def test_what_is_done_is_not_done_again_and_more_repeats_are_added(runs: FakeRuns, tmp_path: Path) -> None:
    runs.compare(SHARED, GridSettings(**GRID, repeats=1), tmp_path)
    first = list(runs.finished)
    (tmp_path / "runs" / first[1] / "results.json").unlink()
    runs.compare(SHARED, GridSettings(**GRID, repeats=1), tmp_path)
    assert runs.finished == [*first, first[1]]
    all_runs = runs.compare(SHARED, GridSettings(**GRID, repeats=2), tmp_path)
    assert len(runs.finished) == 7
    assert len(all_runs) == len((tmp_path / "table.csv").read_text().splitlines()) - 1 == 6
    runs.compare(SHARED, GridSettings(**GRID, repeats=2), tmp_path)
    assert len(runs.finished) == 7


def test_a_second_comparison_in_a_folder_is_refused_while_the_first_runs(runs: FakeRuns, tmp_path: Path) -> None:
    with (
        hold_lock(tmp_path, "comparison"),
        pytest.raises(UserError, match="is being used by another launcher: process "),
    ):
        runs.compare(SHARED, GridSettings(**GRID, repeats=1), tmp_path)
    assert runs.finished == []


def test_a_folder_that_holds_another_comparison_is_refused(runs: FakeRuns, tmp_path: Path) -> None:
    runs.compare(SHARED, GridSettings(**GRID, repeats=2), tmp_path)
    changed = RunSettings(network=MLP(depth=4), train=SHARED.train, launch=SHARED.launch)
    with pytest.raises(UserError) as caught:
        runs.compare(changed, GridSettings(**GRID | {"microbatches": [2]}, repeats=1), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds another comparison: grid.microbatches is [2, 4] there, [2] here; grid.repeats is 2 there, "
        "1 here; network.depth is 3 there, 4 here; take a new folder"
    )
    faster = replace(SHARED, grouping=Pack(), launch=Local(device="cpu", threads=2, max_restarts=0))
    with pytest.raises(UserError) as caught:
        runs.compare(faster, GridSettings(**GRID, repeats=2), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds another comparison: grouping.name is alone there, pack here; launch.threads is 1 there, "
        "2 here; grouping.trial is None there, True here; take a new folder"
    )
    assert len(runs.finished) == 6


def test_a_run_that_fails_is_recorded_and_the_others_go_on(
    runs: FakeRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.failing = {"gpipe-mlp32-k2-b32-m2"}
    runs.compare(SHARED, GridSettings(**GRID, repeats=1), tmp_path)
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["outcome"] for row in rows] == [
        "done",
        "process 0 was killed by SIGKILL; see runs/gpipe-mlp32-k2-b32-m2/0/ranks/0/log.txt",
        "done",
    ]
    assert str(tmp_path) not in (tmp_path / "summary.md").read_text() + (tmp_path / "table.json").read_text()
    assert f"2/3  gpipe-mlp32-k2-b32-m2, repeat 0: FAILED: {rows[1]['outcome']}; about " in capsys.readouterr().out


def test_on_a_terminal_a_bar_says_how_long_is_left() -> None:
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, color_system=None, width=120)
    one, two = grid_cells(GridSettings(**GRID | {"microbatches": [2]}))
    with ComparisonView(3, num_finished=1, console=terminal) as view:
        view.start_run(one, 0)
        wait_until(lambda: f"{one.name}, repeat 0" in out.getvalue())
        view.finish_run(CellRun(cell=one, repeat=0, seed=0, results=RESULTS))
        view.start_run(two, 0)
        wait_until(lambda: bool(re.search(rf"{two.name}, repeat 0 .* 2/3  about [\d.]+ s left", out.getvalue())))
        view.finish_run(CellRun(cell=two, repeat=0, seed=0, results={}, outcome="process 0 was killed"))
    assert "3/3  all done" in out.getvalue()
    assert f"{one.name}, repeat 0: test accuracy" not in out.getvalue()  # Lines are for where there is no bar.
    assert f"{two.name}, repeat 0: FAILED: process 0 was killed" in out.getvalue()


def test_after_ctrl_c_the_way_to_go_on_is_said(
    small: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(settings: RunSettings, folder: Path, dataset: Dataset, *, show_progress: bool) -> dict[str, Any]:
        if not settings.partition.dry_run:
            raise KeyboardInterrupt
        return {}

    named = replace(small, name="glyphs")
    with pytest.raises(KeyboardInterrupt):
        compare(SHARED, GridSettings(**GRID), tmp_path, named, runner=interrupt)
    words = [f"resume={tmp_path}", *option_words("launch", asdict(replace(SHARED.launch, processes="fresh")))]
    again = local_command("compare", words)
    assert capsys.readouterr().out.splitlines()[-1] == f"Progress is saved. To continue: {again}"


def test_the_command_without_host_paths() -> None:
    shared = RunSettings(seed=1, data=EMNIST(root="/files"))
    command = comparison_command(shared, GridSettings(repeats=2))
    assert command == "partrain compare seed=1 data=emnist 'data.root=<folder>' grid.repeats=2"


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (
            {"strategies": ["synthetic", "gpipe"], "batch_sizes": [32], "microbatches": [3]},
            "gpipe-mlp512-k2-b32-m3: train.batch_size=32 cannot be divided by strategy.microbatches=3; ",
        ),
        (
            {"strategies": ["1f1b"], "batch_sizes": [32], "microbatches": [2], "segments": [3]},
            "1f1b-mlp512-k3-b32-m2: strategy=1f1b needs at least as many microbatches as stages, ",
        ),
        (
            {"strategies": ["synthetic"], "segments": [2, 4]},
            "synthetic-mlp512-k4-b256: partition.segments=4 is more than the network's 3 layers. Set it to 3 or less.",
        ),
        (
            {"strategies": ["end_to_end"], "batch_sizes": [64, 641]},
            "end_to_end-mlp512-b641: train.batch_size=641 is larger than the training set of 640 images. "
            "Set it to 640 or less.",
        ),
    ],
)
def test_a_cell_that_cannot_be_is_said_before_anything_runs(grid: dict[str, Any], message: str, small: Dataset) -> None:
    with pytest.raises(UserError) as caught:
        check_cells(grid_cells(GridSettings(**grid)), SHARED, small)
    assert str(caught.value).startswith(message)


def test_a_comparison_from_the_command_line(tmp_path: Path) -> None:
    arguments = [
        *DATA,
        *("network.depth=2", "train.epochs=1", "launch.device=cpu", "launch.threads=1", f"hydra.run.dir={tmp_path}"),
        "launch.processes=fork",
        *("grid.strategies=[end_to_end,synthetic]", "grid.widths=[32]", "grid.batch_sizes=[50]", "grid.repeats=1"),
        "grid.accuracies=[0.0]",
    ]
    outcome = run_script("compare", *arguments)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0] == f"2 cells × 1 repeats = 2 runs in {tmp_path}"
    assert [line.split(":")[0] for line in lines[1:3]] == [
        "1/2  end_to_end-mlp32-b50, repeat 0",
        "2/2  synthetic-mlp32-k2-b50, repeat 0",
    ]
    assert lines[2].endswith("; all done")
    assert lines[3:] == [
        f"2 runs finished, 0 failed; the results are in {tmp_path}/summary.md and {tmp_path}/report.html"
    ]
    table = checkpoint.read_json(tmp_path / "table.json")
    end_to_end, synthetic = table["rows"]
    results = checkpoint.read_json(tmp_path / "runs/synthetic-mlp32-k2-b50/0/results.json")
    assert (synthetic["steps"], synthetic["traffic_bytes"], synthetic["seed"]) == (12, 0, 0)
    assert synthetic["samples_per_second"] == results["samples_per_second"]
    assert synthetic["processes"]["peak_memory_bytes"] == [part["peak_memory_bytes"] for part in results["segments"]]
    assert 0 < end_to_end["utilization"] <= 1.1
    assert end_to_end["seconds_to_0"] == end_to_end["accuracy_curve"][0]["seconds"] > 0
    for name in ("table.md", "summary.csv", "report.html"):
        assert "synthetic" in (tmp_path / name).read_text(), name
    summary = (tmp_path / "summary.md").read_text()
    assert "glyphs: 600 training and 200 test images." in summary
    assert "`partrain compare data.limit_train=600 " in summary
    assert str(tmp_path) not in summary
    refused = run_script("compare", *arguments, "train.epochs=2")
    assert refused.error.endswith("holds another comparison: train.epochs is 1 there, 2 here; take a new folder")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grid.strategies=[pipeline]", "grid.strategies=pipeline is unknown; known: "),
        ("grid.width=[32]", "grid.width is not a setting; did you mean grid.widths?"),
        (
            "train.batch_size=64",
            "train.batch_size=64 has no effect in a comparison; remove it, and set grid.batch_sizes",
        ),
        ("resume=runs/x", "resume=runs/x is no comparison's folder: it needs config.yaml and grid.json"),
    ],
)
def test_a_mistake_in_the_settings_is_one_line(override: str, message: str, tmp_path: Path) -> None:
    outcome = run_script("compare", *DATA, override, f"hydra.run.dir={tmp_path}")
    assert outcome.code == 1
    assert outcome.error.startswith(f"error: {message}")
    assert begun_in(tmp_path) == []
