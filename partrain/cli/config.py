"""The schemas of the configurations in `conf/`, and the settings that a composed configuration describes."""

import re
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf

from partrain import checks
from partrain.cli.old_words import refuse_old_words
from partrain.comparison.grid import GridSettings
from partrain.data import Dataset, DataSettings, prepare_data
from partrain.errors import UserError
from partrain.networks import NETWORKS
from partrain.runs.old_config import upgrade_config
from partrain.settings import GROUPINGS, OPTION_FIELDS, RunSettings
from partrain.shards.makespans import SimulateSettings
from partrain.storage.run_folder import CONFIG, PLAN
from partrain.tuning.settings import SearchSettings

CONF = str(Path(__file__).resolve().parents[2] / "conf")
"""The folder of the configurations."""

# A setting and its distribution, such as train.lr=loguniform(1e-4,1e-1), on the command line of a search.
_DISTRIBUTION = re.compile(r"\+*(?!hydra\.|search\.)[\w.]+=[a-z_]\w*\(")

_SCHEMAS: dict[str, dict[str, Any]] = {"network": NETWORKS, "grouping": GROUPINGS}
"""The class of settings for each option, by the groups in which every option has settings of its own."""

_MAY_DIFFER = ("grouping", "launch")
"""The groups of settings that may differ when a run is resumed."""

_MAX_SHOWN = 60
"""How many characters of a setting's value errors show."""


# ---- The schemas.


def _make_train_config() -> type:
    """Return the schema of experiments/train.py: the fields of `RunSettings`, and `resume`, the folder of a run.

    The fields of the network and of the grouping accept anything, since their schema is that of the option that is
    chosen.
    """
    parts = [
        (part.name, Any, None) if part.name in _SCHEMAS else (part.name, part.type, _copy_default(part))
        for part in fields(RunSettings)
    ]
    return make_dataclass("TrainConfig", [*parts, ("resume", str | None, None)])


def _copy_default(part: Field[Any]) -> Any:
    """Return a new field with the default of `part`."""
    return field(default=part.default, default_factory=part.default_factory)


TrainConfig = _make_train_config()


@dataclass
class EvaluateConfig:
    """The settings of experiments/evaluate.py."""

    data: DataSettings | None = None
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
    for classes in _SCHEMAS.values():
        for option, settings in classes.items():
            store.store(name=f"{option}_schema", node=settings)
    OmegaConf.register_new_resolver("or_new", lambda resumed, new: resumed or new, replace=True)


def compose_config(folder: Path, name: str, overrides: Sequence[str]) -> DictConfig:
    """Return the configuration `name` in `folder` with `overrides`, for scripts without Hydra's command line."""
    refuse_old_words(overrides)
    register_schemas()
    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose(name, list(overrides))


# ---- Settings from a configuration.


def run_settings(config: DictConfig) -> RunSettings:
    """Return the settings of the run that a composed configuration describes."""
    parts: dict[str, Any] = {
        str(key): OmegaConf.to_object(part) if OmegaConf.is_config(part) else part
        for key, part in config.items_ex(resolve=True)
        if key not in ("resume", "grid", "search")
    }
    return RunSettings(**parts)


def grid_settings(config: DictConfig) -> GridSettings:
    """Return the grid that the configuration of a comparison describes."""
    if config.resume:
        raise UserError("resume: a comparison continues with the same command and hydra.run.dir=<its folder>")
    grid = OmegaConf.to_object(config.grid)
    assert isinstance(grid, GridSettings)
    return grid


def search_settings(config: DictConfig, space: Sequence[str] = ()) -> SearchSettings:
    """Return the search that a configuration describes, with the entries of `space` added to its own."""
    if config.resume:
        raise UserError("resume: a search continues with the same command and hydra.run.dir=<its folder>")
    settings = OmegaConf.to_object(config.search)
    assert isinstance(settings, SearchSettings)
    return replace(settings, space=[*settings.space, *space])


def split_search_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into Hydra's overrides and search distributions, which Hydra cannot parse.

    Raises:
        UserError: If several searches at once are asked for.
    """
    if {"-m", "--multirun"} & set(arguments):
        raise UserError("--multirun: a search tries several values itself; give them as seed=choice(0,1,2)")
    space = [word for word in arguments if _DISTRIBUTION.match(word)]
    return [word for word in arguments if word not in space], space


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
        stored = _read_config(path)
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataSettings), stored.data))
    assert isinstance(settings, DataSettings)
    return prepare_data(settings)


# ---- Resuming a run.


def resumed_settings(config: DictConfig) -> RunSettings:
    """Return the settings of the run in the folder `config.resume`, with the present `launch` settings.

    The grouping is the run's own, unless the command line sets one.

    Raises:
        UserError: If the folder is no run's, or if the command line sets something else than the run did.
    """
    folder = Path(config.resume)
    path = folder / CONFIG
    if not (folder / PLAN).exists() or not path.exists():
        raise UserError(f"resume={folder} is no run's folder: it needs config.yaml and plan.json")
    stored = _read_config(path)
    _check_overrides(config, stored)

    schemas = {group: OmegaConf.structured(_class_of_option(stored, group, path)) for group in _SCHEMAS}
    merged = OmegaConf.merge(OmegaConf.structured(TrainConfig), schemas, stored)
    merged.launch = config.launch
    if any(_setting_of(override).startswith("grouping") for override in HydraConfig.get().overrides.task):
        merged.grouping = config.grouping
    assert isinstance(merged, DictConfig)
    return run_settings(merged)


def _class_of_option(stored: DictConfig, group: str, path: Path) -> Any:
    """Return the class of settings for the option of `group` that a run's `stored` settings, in the file `path`, have."""
    option = OmegaConf.select(stored, f"{group}.{OPTION_FIELDS[group]}")
    checks.one_of(f"{path}: {group}", option, _SCHEMAS[group])
    return _SCHEMAS[group][option]


def _check_overrides(config: DictConfig, stored: DictConfig) -> None:
    """Raise `UserError` if a word on the command line sets something else than the run's `stored` settings."""
    composed = OmegaConf.create(run_settings(config).to_json())
    for override in HydraConfig.get().overrides.task:
        key = _setting_of(override)
        if key == "resume" or key.startswith((*_MAY_DIFFER, "hydra")):
            continue
        # An experiment may set anything.
        names = [str(name) for name in composed if name not in _MAY_DIFFER] if key == "experiment" else [key]
        for name in names:
            value = OmegaConf.select(stored, name)
            if value != OmegaConf.select(composed, name):
                raise UserError(
                    f"resume={config.resume}: the run has {name}={_shortened(value)}, but the command line has {override}; "
                    "leave it out, or start a new run"
                )


def _setting_of(override: str) -> str:
    """Return the name of the setting, or of the group of settings, that a word on the command line sets."""
    return override.lstrip("+~").partition("=")[0]


def _read_config(path: Path) -> DictConfig:
    """Return the contents of a run's config.yaml, in today's form.

    Raises:
        UserError: If the file is damaged.
    """
    try:
        stored = OmegaConf.load(path)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())})") from None
    if isinstance(stored, DictConfig):
        values = OmegaConf.to_container(stored)
        assert isinstance(values, dict)
        stored = OmegaConf.create(upgrade_config({str(name): value for name, value in values.items()}))
    parts = {part.name for part in fields(RunSettings)}
    if not isinstance(stored, DictConfig) or set(stored) != parts:
        raise UserError(f"{path} is damaged: expected the settings {', '.join(sorted(parts))}")
    return stored


def _shortened(value: Any) -> str:
    """Return `value` as text of at most `_MAX_SHOWN` characters."""
    text = str(OmegaConf.to_container(value)) if OmegaConf.is_config(value) else str(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."
