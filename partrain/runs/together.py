"""Several runs at once: their segments train together, packed where that pays, and then each run is finished."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from partrain.data import Dataset
from partrain.errors import JobFailed, UserError
from partrain.launch.executor import Executor
from partrain.launch.launcher import Launcher
from partrain.runs.jobs import JobPlanner
from partrain.runs.prepare import PreparedRun, check_search_has_ended, prepare_run
from partrain.runs.run import finish_run
from partrain.runs.stages import train_together
from partrain.runs.timing import record_seconds
from partrain.settings import RunSettings
from partrain.storage.checkpoint import remove_partial_files
from partrain.storage.lock import hold_locks
from partrain.storage.run_folder import SEGMENTS
from partrain.training.completion import is_finished


def run_together(
    runs: Mapping[str | Path, RunSettings],
    packs: str | Path,
    dataset: Dataset | None = None,
    *,
    show_progress: bool = True,
    executor: Executor | None = None,
) -> dict[Path, dict[str, Any]]:
    """Do several runs at once, or resume them. The first run's `grouping` and `launch` settings count for all.

    Args:
        runs: The settings of each run, by its folder.
        packs: The folder for the files of processes that train segments of several runs.
        dataset: The data instead of those that the settings name.
        show_progress: Whether to show the progress of training.
        executor: The place where trainings run instead of the one that the settings name.

    Returns:
        The contents of each finished run's results.json, by the run's absolute folder.

    Raises:
        UserError: If a setting or a file of a run is not as it must be, before any training begins. If a training does
            not fit into the memory that it may take, when its stage begins.
        JobFailed: If a segment failed for good. Before it is raised, the others of its stage are trained, and runs
            whose segments are all trained are finished. Later stages are not trained.
        KeyboardInterrupt: After Ctrl-C, or SIGTERM during training. Every process has written a checkpoint by then,
            except any that were killed after 30 s.
    """
    first = next(iter(runs.values()))
    _check_folders(runs, packs)
    launcher = Launcher(first.launch, executor)
    prepared_runs = [prepare_run(settings, folder, dataset, launcher=launcher) for folder, settings in runs.items()]
    for prepared in prepared_runs:
        _check_run(prepared)

    folder = Path(packs).absolute()
    planner = JobPlanner(
        grouping=first.grouping, launcher=launcher, show_timings=show_progress, show_progress=show_progress
    )
    results = {}
    with hold_locks([folder, *(prepared.folder for prepared in prepared_runs)], "run"):
        for prepared in prepared_runs:
            if show_progress:
                prepared.report_move()
            prepared.write()
        failure = _train(prepared_runs, planner, folder, show_progress=show_progress)
        for prepared in prepared_runs:
            if all(is_finished(prepared.folder / name) for name in prepared.segment_names()):
                results[prepared.folder] = finish_run(prepared, launcher, show_progress=False)
        remove_partial_files(folder, recursive=True)
    if failure is not None:
        raise failure
    return results


def _check_folders(runs: Iterable[str | Path], packs: str | Path) -> None:
    """Raise `UserError` if the folder of a run is that of the packs, or belongs to a search that has not ended."""
    for run in runs:
        check_search_has_ended(Path(run))
        if Path(run).absolute() == Path(packs).absolute():
            raise UserError(f"packs={packs} is the folder of a run too; choose another folder for the packs")


def _check_run(prepared: PreparedRun) -> None:
    """Raise `UserError` if a run cannot be packed, or its folder holds other work, which is left as it is."""
    strategy = prepared.settings.strategy
    if strategy.is_group:
        raise UserError(f"{prepared.folder}: strategy={strategy.name} cannot be packed with other runs")
    prepared.check_folder()


def _train(runs: Sequence[PreparedRun], planner: JobPlanner, packs: Path, *, show_progress: bool) -> JobFailed | None:
    """Train the segments of `runs`, record the seconds for each run, and return the failure if there was one."""
    with ExitStack() as clocks:
        for prepared in runs:
            clocks.enter_context(record_seconds(prepared.folder / SEGMENTS))
        try:
            train_together(runs, planner, packs, show_progress=show_progress)
        except JobFailed as failure:
            return failure
    return None
