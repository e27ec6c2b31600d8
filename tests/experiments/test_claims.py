"""The claims' tables and plots, over made runs of their own grids."""

import importlib.util
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from claims.output import plot_bars
from scripting import ROOT

from partrain.comparison.grid import Cell, GridSettings, grid_cells
from partrain.comparison.table import CellRun
from partrain.networks import MLP

CLAIMS = ROOT / "experiments/claims"
WEIGHTS = 1_000_000


def script(name: str) -> ModuleType:
    """The claim's script, as a module."""
    spec = importlib.util.spec_from_file_location(name, CLAIMS / name / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def grid_of(name: str, **changed: Any) -> GridSettings:
    values = yaml.safe_load((CLAIMS / name / "grid.yaml").read_text())
    own = {key.removeprefix("grid."): value for key, value in values.items() if key.startswith("grid.")}
    return GridSettings(**own | changed)


def made_run(cell: Cell, repeat: int = 0, **results: Any) -> CellRun:
    """A run in which every process takes 100 MB over its share of the weights, and end to end 100 images a second."""
    processes = cell.segments
    speed = 200.0 if cell.strategy == "synthetic" else 100.0
    process = {
        "peak_memory_bytes": 100 * 2**20 // processes,
        "parameter_bytes": WEIGHTS // processes,
        "optimizer_state_bytes": 2 * WEIGHTS // processes,
        "epochs": 2,
    }
    facts: dict[str, Any] = {
        "samples_per_second": speed,
        "step_seconds": 1000 / speed,
        "steps": 20,
        "test_accuracy": 0.87,
        "traffic_bytes": 0 if cell.strategy in ("synthetic", "end_to_end") else 20_000,
        "traffic_bytes_per_step": 0.0 if cell.strategy in ("synthetic", "end_to_end") else 1000.0,
        "utilization": 0.9,
        "accuracy_curve": [],
        "segments": [process] * processes,
        "network": asdict(MLP(width=cell.width or 512)),
        "cuts": [f"relu{number}" for number in range(processes - 1)],
        "data": {"train_images": 5120},
        "train": {"epochs": 2, "precision": "bf16"},
    }
    return CellRun(cell=cell, repeat=repeat, seed=repeat, results=facts | results)


def test_memory_against_end_to_ends(tmp_path: Path) -> None:
    claim = script("sil_memory")
    rows = claim.table_rows([made_run(cell) for cell in grid_cells(grid_of("sil_memory"))])
    assert {(row["K"], row["of end to end"], row["1 / K"]) for row in rows} == {
        (1, 1.0, 1.0),
        (2, 0.5, 0.5),
        (3, 0.33, 0.33),
        (6, 0.17, 0.17),
    }
    assert rows[0]["largest process, MiB"] == 100
    claim.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_traffic_of_a_whole_training(tmp_path: Path) -> None:
    claim = script("sil_traffic")
    rows = claim.table_rows([made_run(cell) for cell in grid_cells(grid_of("sil_traffic"))])
    total = next(name for name in rows[0] if name.startswith("GB in"))
    found = {(row["strategy"], row["K"], row["batch"]): row for row in rows}
    assert found["synthetic", 2, 64][total] == 0
    assert found["synthetic", 2, 64]["from first principles"] == 0
    assert found["model_parallel", 2, 64]["from first principles"] == 2 * 64 * 512 * 2  # there and back, in bf16
    steps = 8 * (96_993 // 64)
    assert found["model_parallel", 2, 64][total] == pytest.approx(1000 * steps / 1e9, rel=0.01)
    assert found["sequential", 2, 64][total] == pytest.approx(20_000 / 5120 * 96_993 / 1e9, rel=0.01)
    claim.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()


def test_speed_against_targets(tmp_path: Path) -> None:
    claim = script("sil_speed")
    runs = {
        (width, batch): [
            made_run(cell, repeat)
            for cell in grid_cells(grid_of("sil_speed", widths=[width], batch_sizes=[batch]))
            for repeat in range(5)
        ]
        for width, batch in claim.PANEL_IMAGES
    }
    rows = [row for panel in runs.values() for row in claim.panel_rows(panel)]
    assert len(rows) == 4 * 7  # of a pipeline only the best count of microbatches
    for row in rows:
        expected = 1.0 if row["strategy"] == "synthetic" else 2.0
        assert row["synthetic is × faster"] == expected
        assert row["met"] == ("yes" if row["target"] else "")
    claim.plot(rows, runs, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()


def test_flops_to_the_same_accuracy(tmp_path: Path) -> None:
    claim = script("sil_compute")
    accuracy = {4: 0.86, 5: 0.868, 6: 0.869, 8: 0.87}
    found = {
        claim.Case(strategy, count, epochs): [
            made_run(
                Cell(strategy=strategy, network="mlp", width=512, segments=count, batch_size=256, microbatches=None),
                test_accuracy=accuracy[epochs],
                train={"epochs": epochs, "precision": "bf16"},
                steps=20 * epochs,
                step_seconds=float(epochs),
            )
        ]
        for strategy, count, epochs in claim.CASES
    }
    rows, bar = claim.table_rows(found)
    assert bar == pytest.approx(86.7)
    images = 20 * 256
    forward_backward = 2 * (784 * 512 * 2 + 3 * (4 * 512 * 512 + 512 * 47))  # no gradient of the images is taken
    assert claim.run_flops(found["end_to_end", 1, 8][0]) == forward_backward * images * 8
    # made runs say 2 epochs of every segment; one gradient less at the cut, and products with the codes
    saved, codes = 2 * 512 * 512, 3 * 2 * 512 * 47
    assert claim.run_flops(found["synthetic", 2, 6][0]) == (forward_backward - saved + codes) * images * 2
    cheapest = {(row["strategy"], row["K"]): row["epochs"] for row in rows if row["reaches it"] == "cheapest"}
    assert cheapest["end_to_end", 1] == 5
    assert cheapest["synthetic", 3] == 6
    claim.plot(rows, bar, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()


def test_packed_steps_against_targets(tmp_path: Path) -> None:
    claim = script("packed_step")
    run = {2: {"packed": 1.0, "alone": 2.0, "vmap": 4.0}, 8: {"packed": 1.0, "alone": 3.0, "vmap": 1.5}}
    cases = [claim.Case("mlp64", "fp32", has_own_orders) for has_own_orders in (False, True)]
    rows = [claim.row(case, size, [run, run, run]) for case in cases for size in run]
    assert [(row["M"], row["packed is × faster"], row["vmap is × faster"], row["met"]) for row in rows] == [
        (2, 2.0, 0.5, "yes"),
        (8, 3.0, 2.0, "NO"),
        (2, 2.0, 0.5, ""),
        (8, 3.0, 2.0, ""),
    ]
    claim.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()


def test_what_the_unified_model_saves(tmp_path: Path) -> None:
    claim = script("unified")
    seconds = {"unified": 10.0, "at once": 40.0, "one after another": 50.0}
    measurements = {
        way: [claim.Measurement(seconds=value, peak_bytes=int(value * 2**20), accuracies=[0.8] * 8)] * 2
        for way, value in seconds.items()
    }
    rows = claim.table(measurements)
    assert [row["unified takes, time"] for row in rows] == ["", "-75 %", "-80 %"]
    assert [row["unified takes, memory"] for row in rows] == ["", "-75 %", "-80 %"]
    assert len({str(model) for model in claim.MODELS}) == 8
    claim.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()


def test_a_packed_search_against_others(tmp_path: Path) -> None:
    claim = script("pack_hyperband")
    best = {"index": 7, "score": 0.8, "test_accuracy": 0.79}
    found = {
        side: [{"seconds": seconds * factor, "best": best} for factor in (1, 2)]
        for side, seconds in (("packed", 10.0), ("one after another", 30.0), ("side by side", 20.0))
    }
    rows = claim.table(found)
    assert [(row["side"], row["packed is × faster"], row["winner"]) for row in rows] == [
        ("packed", 1.0, "7 7"),
        ("one after another", 3.0, "7 7"),
        ("side by side", 2.0, "7 7"),
    ]
    plot_bars(
        {side: [run["seconds"] for run in runs] for side, runs in found.items()},
        ["packed"],
        "seconds",
        tmp_path / "plot.png",
    )
    assert (tmp_path / "plot.png").exists()
