"""The word resume=<folder> of commands: the settings in the folder, checked against those of the command line."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from partrain.comparison.grid import GridSettings
from partrain.errors import UserError
from partrain.options import Settings
from partrain.runs.config_file import read_besides, read_config
from partrain.settings import RunSettings
from partrain.storage.run_folder import CONFIG, GRID_MANIFEST, PLAN, SEARCH_MANIFEST
from partrain.tuning.settings import SearchSettings

_MAY_DIFFER = ("grouping", "launch", "grid.repeats")
"""The settings that may differ when work is resumed."""
_MAX_SHOWN = 60
"""How many characters of a setting's value errors show."""

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Work(Generic[S]):
    """The work that a command line describes: the settings of its runs, and of the search or comparison of them."""

    shared: RunSettings
    besides: S

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return {**self.shared.to_dict(), self.besides.group: asdict(self.besides)}


def resumed_run(folder: Path, given: RunSettings) -> RunSettings:
    """Return the settings of the run in `folder`, with the `launch` settings of the command line.

    Raises:
        UserError: If the folder is no run's, or if the command line sets something else than the run did.
    """
    _check_folder(folder, "run", PLAN)
    stored = read_config(folder / CONFIG)
    _check_words(folder, given.to_dict(), stored.to_dict())
    return _with_present_place(stored, given)


def resumed_search(folder: Path, given: Work[SearchSettings], space: Sequence[str]) -> Work[SearchSettings]:
    """Return the settings of the search in `folder`, which has to have the entries of `space`; see `resumed_run`."""
    work = _resumed(folder, "search", SEARCH_MANIFEST, given)
    for entry in space:
        if entry not in work.besides.space:
            raise UserError(f"resume={folder}: it does not search {entry}; leave it out, or start anew in a new folder")
    return work


def resumed_comparison(folder: Path, given: Work[GridSettings]) -> Work[GridSettings]:
    """Return the settings of the comparison in `folder`, whose cells may be repeated more often; see `resumed_run`."""
    work = _resumed(folder, "comparison", GRID_MANIFEST, given)
    if not _is_set("grid.repeats"):
        return work
    return replace(work, besides=replace(work.besides, repeats=given.besides.repeats))


def _resumed(folder: Path, kind: str, manifest: str, given: Work[S]) -> Work[S]:
    _check_folder(folder, kind, manifest)
    stored = Work(read_config(folder / CONFIG), read_besides(folder / CONFIG, type(given.besides)))
    _check_words(folder, given.to_dict(), stored.to_dict())
    return replace(stored, shared=_with_present_place(stored.shared, given.shared))


def _check_folder(folder: Path, kind: str, manifest: str) -> None:
    """Raise `UserError` unless the folder holds work of this kind, with its settings and the file `manifest`."""
    if not (folder / manifest).exists() or not (folder / CONFIG).exists():
        raise UserError(f"resume={folder} is no {kind}'s folder: it needs {CONFIG} and {manifest}")


def _with_present_place(stored: RunSettings, given: RunSettings) -> RunSettings:
    """Return the stored settings with how processes are launched, and grouped if the command line says how."""
    grouping = given.grouping if _is_set("grouping") else stored.grouping
    return replace(stored, launch=given.launch, grouping=grouping)


def _is_set(name: str) -> bool:
    """Return whether a word on the command line sets a setting, or one of a group of settings."""
    return any(_setting_of(word).startswith(name) for word in HydraConfig.get().overrides.task)


def _setting_of(word: str) -> str:
    """Return the name of the setting, or of the group of settings, that a word on the command line sets."""
    return word.lstrip("+~").partition("=")[0]


def _check_words(folder: Path, given: dict[str, Any], stored: dict[str, Any]) -> None:
    """Raise `UserError` if a word on the command line sets something else than what the folder's work has."""
    ours, theirs = OmegaConf.create(given), OmegaConf.create(stored)
    for word in HydraConfig.get().overrides.task:
        key = _setting_of(word)
        if key == "resume" or key.startswith((*_MAY_DIFFER, "hydra")):
            continue
        # An experiment may set anything.
        names = [str(name) for name in ours if name not in _MAY_DIFFER] if key == "experiment" else [key]
        for name in names:
            value = OmegaConf.select(theirs, name)
            if value != OmegaConf.select(ours, name):
                raise UserError(
                    f"resume={folder}: it has {name}={_shortened(value)}, but the command line has {word}; "
                    "leave it out, or start anew in a new folder"
                )


def _shortened(value: Any) -> str:
    """Return `value` as text of at most `_MAX_SHOWN` characters."""
    text = str(OmegaConf.to_container(value)) if OmegaConf.is_config(value) else str(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."
