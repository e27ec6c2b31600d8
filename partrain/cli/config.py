"""The schemas of the configurations in `conf/`, and the settings that a composed configuration describes."""

import re
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from partrain.cli.old_words import refuse_old_words
from partrain.comparison.grid import GridSettings
from partrain.data import Dataset, DataSettings, prepare_data
from partrain.errors import UserError
from partrain.runs.config_file import read_config
from partrain.settings import GROUPS, RunSettings
from partrain.shards.makespans import SimulateSettings
from partrain.storage.run_folder import CONFIG
from partrain.tuning.settings import SearchSettings

CONF = str(Path(__file__).resolve().parents[1] / "conf")
"""The folder of the configurations."""

# A setting and its distribution, such as train.lr=loguniform(1e-4,1e-1), on the command line of a search.
_DISTRIBUTION = re.compile(r"\+*(?!hydra\.|search\.)[\w.]+=[a-z_]\w*\(")
_FREE_OPTION = re.compile(r"(network|labels)\.options\.")


# ---- The schemas.


def _make_train_config() -> type:
    """Return the schema of partrain train: the fields of `RunSettings`, `resume` and `objective`.

    The groups that have options accept anything, since their schema is that of the option that is chosen.
    """
    parts = [
        (part.name, Any, None) if part.name in GROUPS else (part.name, part.type, _copy_default(part))
        for part in fields(RunSettings)
    ]
    return make_dataclass("TrainConfig", [*parts, ("resume", str | None, None), ("objective", str | None, None)])


def _copy_default(part: Field[Any]) -> Any:
    """Return a new field with the default of `part`."""
    return field(default=part.default, default_factory=part.default_factory)


TrainConfig = _make_train_config()


@dataclass
class EvaluateConfig:
    """The settings of partrain evaluate."""

    data: Any = None
    """The data set to evaluate on, with the same classes as the run's. By default the run's own."""
    run: str = MISSING
    """The folder of the run whose stitched network is evaluated; it must be given."""
    device: str = "auto"
    """The device to evaluate on: cpu, gpu, one by its name in PyTorch, or auto, which takes a GPU if there is one."""


def register_schemas() -> None:
    """Register the schemas with Hydra, under the names that the files in `conf/` use."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="grid_schema", node=GridSettings)
    store.store(name="search_schema", node=SearchSettings)
    store.store(name="simulate_schema", node=SimulateSettings)
    for group, options in GROUPS.items():
        for option, settings in options.classes.items():
            store.store(name=f"{group}_{option}_schema", node=settings)
    OmegaConf.register_new_resolver("or_new", lambda resumed, new: resumed or new, replace=True)


def compose_config(folder: Path, name: str, overrides: Sequence[str]) -> DictConfig:
    """Return the configuration `name` in `folder` with `overrides`, for scripts without Hydra's command line."""
    register_schemas()
    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose(name, hydra_words(overrides))


# ---- Settings from a configuration.


def run_settings(config: DictConfig) -> RunSettings:
    """Return the settings of the run that a composed configuration describes."""
    parts: dict[str, Any] = {
        str(key): OmegaConf.to_object(part) if OmegaConf.is_config(part) else part
        for key, part in config.items_ex(resolve=True)
        if key not in ("resume", "objective", "grid", "search")
    }
    return RunSettings(**parts)


def grid_settings(config: DictConfig) -> GridSettings:
    """Return the grid that the configuration of a comparison describes."""
    _refuse_objective(config)
    grid = OmegaConf.to_object(config.grid)
    assert isinstance(grid, GridSettings)
    return grid


def search_settings(config: DictConfig, space: Sequence[str] = ()) -> SearchSettings:
    """Return the search that a configuration describes, with the entries of `space` added to its own."""
    _refuse_objective(config)
    settings = OmegaConf.to_object(config.search)
    assert isinstance(settings, SearchSettings)
    return replace(settings, space=[*settings.space, *space])


def _refuse_objective(config: DictConfig) -> None:
    """Raise `UserError` if an objective is set for a command that is no training and returns none."""
    if config.objective is not None:
        raise UserError(f"objective={config.objective} is a setting of partrain train; leave it out")


def split_search_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into Hydra's overrides and search distributions, which Hydra cannot parse.

    Raises:
        UserError: If several searches at once are asked for.
    """
    if {"-m", "--multirun"} & set(arguments):
        raise UserError("--multirun: a search tries several values itself; give them as seed=choice(0,1,2)")
    space = [word for word in arguments if _DISTRIBUTION.match(word)]
    return [word for word in arguments if word not in space], space


def hydra_words(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command as Hydra reads them: with "++" before options by name, which no schema lists.

    Such an option is network.options.width=256, an argument of the user's own function.

    Raises:
        UserError: If an argument is a word of an older version.
    """
    refuse_old_words(arguments)
    return [f"++{word}" if _FREE_OPTION.match(word) else word for word in arguments]


def evaluation_data(config: DictConfig) -> Dataset:
    """Return the data set that the configuration of an evaluation names, or else the run's own.

    Raises:
        UserError: If the run's folder is needed and has no config.yaml, or a damaged one.
    """
    if config.data is not None:
        settings = OmegaConf.to_object(config.data)
    else:
        path = Path(config.run) / CONFIG
        if not path.exists():
            raise UserError(f"run={config.run} is no run's folder: it has no config.yaml")
        settings = read_config(path).data
    assert isinstance(settings, DataSettings)
    return prepare_data(settings)
