"""A comparison from settings to a folder: its cells are checked, then run in alternating order, those that are done kept."""

import shlex
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from partrain.comparison.grid import Cell, GridSettings, check_shared_settings, grid_cells, skipped_cell_notes
from partrain.comparison.output import write_tables
from partrain.comparison.table import CellRun, run_folder
from partrain.comparison.view import ComparisonView
from partrain.console import console
from partrain.data import Dataset, prepare_data
from partrain.errors import JobFailed, UserError
from partrain.launch.machine import machine
from partrain.runs.command import resumable
from partrain.runs.run import run
from partrain.settings import RunSettings
from partrain.storage import checkpoint
from partrain.storage.manifest import write_manifest
from partrain.storage.run_folder import GRID_MANIFEST, PAGE, RESULTS


class Runner(Protocol):
    """Does one run, as `partrain.run` does."""

    def __call__(self, settings: RunSettings, folder: Path, dataset: Dataset, show: bool) -> dict[str, Any]: ...


def compare(
    shared: RunSettings,
    grid: GridSettings,
    folder: str | Path,
    dataset: Dataset | None = None,
    *,
    arguments: Sequence[str] = (),
    runner: Runner = run,
) -> list[CellRun]:
    """Do the runs of `grid`, which have `shared` in common, in `folder`, or go on with them; returns all, failed ones too.

    With `partition.dry_run` the cells are checked and listed, no more. `dataset`: instead of the one that `shared.data`
    names. `arguments`: of experiments/compare.py, to be named beside the tables. `runner`: who does a run.

    Raises:
        ValueError: a setting is wrong, a cell cannot be run, or the folder holds another comparison; nothing has begun.
    """
    folder = Path(folder).absolute()
    check_shared_settings(shared, grid)
    if grid.accuracies:
        shared = replace(shared, train=replace(shared.train, accuracy_curve=True))
    cells = grid_cells(grid)
    dataset = dataset or prepare_data(shared.data)
    check_cells(cells, shared, dataset, runner)
    for note in skipped_cell_notes(grid):
        console.print(note)
    console.print(f"{len(cells)} cells, {grid.repeats} times each: {len(cells) * grid.repeats} runs in {folder}")
    if shared.partition.dry_run:
        console.print("\n".join(cell.name for cell in cells))
        return []
    about = comparison_manifest(shared, grid)
    write_manifest(folder / GRID_MANIFEST, about, "comparison", may_grow=("grid.repeats",))
    about |= {"command": portable_command(arguments), "data": dataset.provenance()}
    order = list(alternating_order(cells, grid.repeats))
    runs = finished_runs(order, shared, folder)
    held = {(run.cell, run.repeat) for run in runs}
    with resumable(folder, "compare", arguments), ComparisonView(len(order), len(runs)) as view:
        for cell, repeat in (each for each in order if each not in held):
            view.begin(cell, repeat)
            runs.append(run_cell(cell, repeat, shared, folder, dataset, runner))
            view.end(runs[-1])
            write_tables(folder, runs, cells, about)
    write_tables(folder, runs, cells, about)
    failed = sum(not run.results for run in runs)
    console.print(f"{len(runs) - failed} runs done, {failed} failed: {folder / 'summary.md'}, {folder / PAGE}")
    return runs


def check_cells(cells: Sequence[Cell], shared: RunSettings, dataset: Dataset, runner: Runner = run) -> None:
    """Plan a run of every cell, so that what cannot be is said before anything has begun.

    Raises:
        ValueError: of the first cell that cannot be run; the message names it.
    """
    with tempfile.TemporaryDirectory() as folder:
        for cell in cells:
            try:
                settings = cell.settings(shared, repeat=0)
                dry = replace(settings, partition=replace(settings.partition, dry_run=True))
                runner(dry, Path(folder) / cell.name, dataset, show=False)
            except ValueError as error:
                raise UserError(f"{cell.name}: {error}") from None


def comparison_manifest(shared: RunSettings, grid: GridSettings) -> dict[str, Any]:
    """All that numbers of a comparison depend on, by setting; where files lie is not part of it."""
    return {"grid": asdict(grid), "settings": shared.fingerprint(), "machine": machine()}


def alternating_order(cells: Sequence[Cell], repeats: int) -> Iterator[tuple[Cell, int]]:
    """Repeat by repeat, every second one backwards, so that no cell is always behind another."""
    for repeat in range(repeats):
        for cell in reversed(cells) if repeat % 2 else cells:
            yield cell, repeat


def finished_runs(order: Sequence[tuple[Cell, int]], shared: RunSettings, folder: Path) -> list[CellRun]:
    """Those that were done before."""
    return [
        CellRun(cell=cell, repeat=repeat, seed=shared.seed + repeat, results=checkpoint.read_json(path))
        for cell, repeat in order
        if (path := folder / run_folder(cell, repeat) / RESULTS).exists()
    ]


def run_cell(cell: Cell, repeat: int, shared: RunSettings, folder: Path, dataset: Dataset, runner: Runner) -> CellRun:
    """Do one run, or go on with it; one whose training fails for good says so in its `outcome`."""
    settings = cell.settings(shared, repeat)
    try:
        results = runner(settings, folder / run_folder(cell, repeat), dataset, show=False)
        return CellRun(cell=cell, repeat=repeat, seed=settings.seed, results=results)
    except JobFailed as error:
        message = str(error).splitlines()[0].replace(f"{folder}/", "")
        return CellRun(cell=cell, repeat=repeat, seed=settings.seed, results={}, outcome=message)


def portable_command(arguments: Sequence[str]) -> str:
    """The command of the comparison, without where its files lie."""
    away = ("data.root=", "data.cache=")
    words = [f"{word.partition('=')[0]}=<folder>" if word.startswith(away) else word for word in arguments]
    return shlex.join(["python", "experiments/compare.py", *words])
