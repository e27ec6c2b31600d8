"""Several runs at once: their segments train together, packed where that pays; then each run is finished by itself."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from partrain.data import Dataset
from partrain.errors import JobFailed, UserError
from partrain.runs.prepare import is_finished, prepare_run
from partrain.runs.run import run
from partrain.runs.stages import timed, train_together
from partrain.settings import RunSettings
from partrain.storage.run_folder import SEGMENTS


def run_together(
    runs: Mapping[str | Path, RunSettings], packs: str | Path, dataset: Dataset | None = None, show: bool = True
) -> dict[Path, dict[str, Any]]:
    """Do the `runs`, settings by folder, or go on with them, as one; returns what each one's results.json says.

    Tasks of one shape, from all runs, are packed as the first run's `launch.pack` says, or all are trained in shards, as its
    `launch` says. `packs`: a folder for either.

    Raises:
        ValueError: a setting or a file of a run is not as it should be; nothing has begun.
        JobFailed: a segment failed for good; raised when the other runs are finished.
    """
    prepared = [prepare_run(settings, Path(folder).absolute(), dataset) for folder, settings in runs.items()]
    for each in prepared:
        if each.settings.strategy.is_group:
            raise UserError(f"{each.folder}: strategy={each.settings.strategy.name} cannot be packed with other runs")
        each.write()
    failure = None
    with ExitStack() as clocks:
        for each in prepared:
            clocks.enter_context(timed(each.folder / SEGMENTS))
        try:
            train_together(prepared, prepared[0].settings.launch, Path(packs).absolute(), show)
        except JobFailed as error:
            failure = error
    done = [each for each in prepared if all(is_finished(each.folder / name) for name in each.segments())]
    results = {each.folder: run(each.settings, each.folder, each.dataset, show=False) for each in done}
    if failure is not None:
        raise failure
    return results
