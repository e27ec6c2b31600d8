"""The public function `compare`: check the cells of a grid, then run each several times and write the tables.

Runs that have finished are not run again, so that a comparison resumes where it was stopped.
"""

import shlex
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from partrain.comparison.grid import Cell, GridSettings, check_shared_settings, grid_cells, skipped_cell_notes
from partrain.comparison.output import ComparisonResults, write_outputs
from partrain.comparison.table import CellRun, run_folder
from partrain.comparison.view import ComparisonView
from partrain.console import console
from partrain.data import Dataset, prepare_data
from partrain.errors import JobFailed, UserError
from partrain.launch.machine import machine_facts
from partrain.launch.settings import Local
from partrain.networks import NETWORKS
from partrain.runs.command import changed_words, group_words, print_resume_command
from partrain.runs.config_file import write_config
from partrain.runs.run import run
from partrain.settings import RunSettings
from partrain.storage import checkpoint
from partrain.storage.lock import hold_lock
from partrain.storage.manifest import write_manifest
from partrain.storage.run_folder import CONFIG, GRID_MANIFEST, PAGE, RESULTS


class Runner(Protocol):
    """A function that does one run, as `partrain.run` does."""

    def __call__(self, settings: RunSettings, folder: Path, dataset: Dataset, *, show_progress: bool) -> dict[str, Any]:
        """Do the run that `settings` describe in `folder`, and return the contents of results.json."""
        ...


def compare(
    shared: RunSettings,
    grid: GridSettings,
    folder: str | Path,
    dataset: Dataset | None = None,
    *,
    runner: Runner = run,
) -> list[CellRun]:
    """Do the runs of `grid` in `folder`, or resume them, and write the tables after each.

    With `partition.dry_run` the cells are only checked and listed.

    Args:
        shared: The settings that all runs have in common.
        grid: The cells to compare, and how often each is run.
        folder: The comparison's folder.
        dataset: The data set of all runs. By default the one that `shared.data` names.
        runner: The function that does one run.

    Returns:
        All runs, those included that had finished before and those that failed.

    Raises:
        UserError: If a setting is wrong, a cell cannot be run, the folder holds another comparison, or another launcher
            uses it. Nothing has run then.
    """
    folder = Path(folder).absolute()
    shared = resolve_shared_settings(shared, grid)
    cells = grid_cells(grid, NETWORKS.name_of(type(shared.network)))
    dataset = dataset or prepare_data(shared.data)
    check_cells(cells, shared, dataset, runner)
    print_grid(grid, len(cells), folder)
    if shared.partition.dry_run:
        console.print("\n".join(cell.name for cell in cells))
        return []

    with hold_lock(folder, "comparison"), print_resume_command("compare", folder, shared, dataset):
        manifest = write_comparison_manifest(shared, grid, folder)
        comparison = Comparison(
            shared=shared,
            cells=cells,
            repeats=grid.repeats,
            folder=folder,
            dataset=dataset,
            runner=runner,
            description=manifest | {"command": comparison_command(shared, grid), "data": dataset.provenance()},
        )
        runs = comparison.finished_runs()
        comparison.run_remaining(runs)
        comparison.write_outputs(runs)
    print_outcome(runs, folder)
    return runs


# ---- What is checked, printed and written before the first run.


def resolve_shared_settings(shared: RunSettings, grid: GridSettings) -> RunSettings:
    """Check the settings that all runs have in common, and settle those that a comparison needs.

    The accuracy curve is added if the grid asks for accuracies. Processes start afresh where that is left open: a forked
    one's peak memory leaves out what it has taken over from the process that forked it.

    Raises:
        UserError: If they set what the grid decides.
    """
    check_shared_settings(shared, grid)
    train = replace(shared.train, accuracy_curve=shared.train.accuracy_curve or bool(grid.accuracies))
    launch = shared.launch
    if isinstance(launch, Local) and launch.processes == "auto":
        launch = replace(launch, processes="fresh")
    return replace(shared, train=train, launch=launch)


def check_cells(cells: Sequence[Cell], shared: RunSettings, dataset: Dataset, runner: Runner = run) -> None:
    """Plan a run of every cell, so that a wrong setting is reported before anything has run.

    Raises:
        UserError: If a cell cannot be run. The message names the first such cell.
    """
    with tempfile.TemporaryDirectory() as folder:
        for cell in cells:
            try:
                settings = cell.settings(shared, repeat=0)
                dry_run = replace(settings, partition=replace(settings.partition, dry_run=True))
                runner(dry_run, Path(folder) / cell.name, dataset, show_progress=False)
            except UserError as error:
                raise UserError(f"{cell.name}: {error}") from None


def print_grid(grid: GridSettings, num_cells: int, folder: Path) -> None:
    """Print how many runs the grid has, and which cells it skips."""
    for note in skipped_cell_notes(grid):
        console.print(note)
    num_runs = num_cells * grid.repeats
    console.print(f"{num_cells} cells × {grid.repeats} repeats = {num_runs} runs in {folder}")


def write_comparison_manifest(shared: RunSettings, grid: GridSettings, folder: Path) -> dict[str, Any]:
    """Write the settings of a comparison, and its manifest: all that its numbers depend on, as paths of files do not.

    Its numbers are of speed, so that grouping, devices and threads are among them.

    Returns:
        The contents of the manifest.

    Raises:
        UserError: If the folder holds another comparison.
    """
    settings = shared.fingerprint() | {
        "grouping": asdict(shared.grouping),
        "launch": {"device": shared.launch.device, "threads": shared.launch.threads},
    }
    manifest = {"grid": asdict(grid), "settings": settings, "machine": machine_facts()}
    write_manifest(folder / GRID_MANIFEST, manifest, "comparison", may_grow=("grid.repeats",))
    write_config(folder / CONFIG, shared, grid)
    return manifest


def comparison_command(shared: RunSettings, grid: GridSettings) -> str:
    """Return the comparison's command, with a placeholder for each folder that other machines do not have."""
    path_settings = ("data.root=", "data.cache=")
    words = [
        f"{word.partition('=')[0]}=<folder>" if word.startswith(path_settings) else word
        for word in (*changed_words(shared), *group_words(grid))
    ]
    return shlex.join(["partrain", "compare", *words])


# ---- The runs.


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison that has been checked.

    Attributes:
        shared: The settings that all runs have in common.
        cells: The cells of the grid.
        repeats: How often each cell is run.
        folder: The comparison's folder.
        dataset: The data set of all runs.
        runner: The function that does one run.
        description: The conditions that are written beside the tables (see `ComparisonResults`).
    """

    shared: RunSettings
    cells: Sequence[Cell]
    repeats: int
    folder: Path
    dataset: Dataset
    runner: Runner
    description: dict[str, Any]

    def finished_runs(self) -> list[CellRun]:
        """Return the runs that finished before."""
        runs = []
        for cell, repeat in alternating_order(self.cells, self.repeats):
            path = self.folder / run_folder(cell, repeat) / RESULTS
            if path.exists():
                seed, results = self.shared.seed + repeat, checkpoint.read_json(path)
                runs.append(CellRun(cell=cell, repeat=repeat, seed=seed, results=results))
        return runs

    def run_remaining(self, runs: list[CellRun]) -> None:
        """Do the runs that are not among `runs`, and append them. The tables are written after each."""
        order = list(alternating_order(self.cells, self.repeats))
        finished = {(cell_run.cell, cell_run.repeat) for cell_run in runs}
        with ComparisonView(len(order), num_finished=len(runs)) as view:
            for cell, repeat in order:
                if (cell, repeat) in finished:
                    continue
                view.start_run(cell, repeat)
                runs.append(self.run_cell(cell, repeat))
                view.finish_run(runs[-1])
                self.write_outputs(runs)

    def run_cell(self, cell: Cell, repeat: int) -> CellRun:
        """Do one run, or resume it. If its training fails for good, `outcome` gives the reason."""
        settings = cell.settings(self.shared, repeat)
        try:
            results = self.runner(settings, self.folder / run_folder(cell, repeat), self.dataset, show_progress=False)
        except JobFailed as error:
            reason = str(error).splitlines()[0].replace(f"{self.folder}/", "")
            return CellRun(cell=cell, repeat=repeat, seed=settings.seed, results={}, outcome=reason)
        return CellRun(cell=cell, repeat=repeat, seed=settings.seed, results=results)

    def write_outputs(self, runs: Sequence[CellRun]) -> None:
        """Write the tables, the summary and the page of `runs` to the comparison's folder."""
        write_outputs(self.folder, ComparisonResults(runs, self.cells, self.description))


def alternating_order(cells: Sequence[Cell], repeats: int) -> Iterator[tuple[Cell, int]]:
    """Yield each cell and repeat: repeat by repeat, and every second repeat backwards.

    No cell runs always after the same other one, so that a slow drift of the machine's speed favours none.
    """
    for repeat in range(repeats):
        for cell in reversed(cells) if repeat % 2 else cells:
            yield cell, repeat


def print_outcome(runs: Sequence[CellRun], folder: Path) -> None:
    """Print how many runs finished and failed, and where the summary and the page are."""
    num_failed = sum(not cell_run.results for cell_run in runs)
    files = f"{folder / 'summary.md'} and {folder / PAGE}"
    console.print(f"{len(runs) - num_failed} runs finished, {num_failed} failed; the results are in {files}")
