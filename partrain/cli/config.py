"""Hydra's edge of the library: schemas for `conf/`, settings out of a configuration, errors in one line.

Nothing else in `partrain` knows Hydra but `cli/multirun.py`, a callback of it.
"""

import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import Field, dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from partrain import checks
from partrain.comparison.grid import GridSettings
from partrain.console import console
from partrain.data import Dataset, DataSettings, prepare_data
from partrain.errors import JobFailed, UserError
from partrain.networks import NETWORKS
from partrain.settings import RunSettings
from partrain.shards.makespans import SimulateSettings
from partrain.storage.run_folder import CONFIG, PLAN
from partrain.tuning.settings import SearchSettings

_DISTRIBUTION = re.compile(r"\+*(?!hydra\.|search\.)[\w.]+=[a-z_]\w*\(")  # of a searched setting: form(...)


def _train_config() -> type:
    """The schema of experiments/train.py: the fields of `RunSettings`, and `resume`, the folder of a run to go on with.

    The network's schema is that of the option chosen, so that here it can be any.
    """
    parts = [
        ("network", Any, None) if part.name == "network" else (part.name, part.type, _with_default(part))
        for part in fields(RunSettings)
    ]
    return make_dataclass("TrainConfig", [*parts, ("resume", str | None, None)])


def _with_default(part: Field[Any]) -> Any:
    """A new field with the default of `part`."""
    return field(default=part.default, default_factory=part.default_factory)


TrainConfig = _train_config()


@dataclass
class EvaluateConfig:
    """The settings of experiments/evaluate.py."""

    data: DataSettings | None = None
    """The data set to evaluate on, with the same classes as the run's. By default the run's own."""
    run: str = MISSING
    """The folder of the run whose stitched network is evaluated; it must be given."""
    device: str = "auto"
    """The device to evaluate on: cpu, cuda, cuda:<n>, or auto, which takes a GPU if there is one."""


def register() -> None:
    """Make the schemas known to Hydra, under the names that `conf/` uses."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="grid_schema", node=GridSettings)
    store.store(name="search_schema", node=SearchSettings)
    store.store(name="simulate_schema", node=SimulateSettings)
    for kind, settings in NETWORKS.items():
        store.store(name=f"{kind}_schema", node=settings)
    OmegaConf.register_new_resolver("or_new", lambda given, new: given or new, replace=True)


def composed(folder: Path, name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration `name` of `folder` under `overrides`, for scripts that are not Hydra's own."""
    register()
    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose(name, list(overrides))


def run_settings(config: DictConfig) -> RunSettings:
    """The settings that a composed configuration describes."""
    parts: dict[str, Any] = {
        str(key): OmegaConf.to_object(part) if OmegaConf.is_config(part) else part
        for key, part in config.items_ex(resolve=True)
        if key not in ("resume", "grid", "search")
    }
    return RunSettings(**parts)


def grid_settings(config: DictConfig) -> GridSettings:
    """The grid of a comparison's configuration."""
    if config.resume:
        raise UserError("resume: a comparison goes on with the same command and hydra.run.dir=<its folder>")
    grid = OmegaConf.to_object(config.grid)
    assert isinstance(grid, GridSettings)
    return grid


def search_settings(config: DictConfig, space: Sequence[str] = ()) -> SearchSettings:
    """The search of a configuration, with the entries of `space` besides its own."""
    if config.resume:
        raise UserError("resume: a search goes on with the same command and hydra.run.dir=<its folder>")
    settings = OmegaConf.to_object(config.search)
    assert isinstance(settings, SearchSettings)
    return replace(settings, space=[*settings.space, *space])


def apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """A search's command line in two: what Hydra reads, and the settings with a distribution, which its grammar has not.

    Raises:
        ValueError: several searches at once are asked for.
    """
    if {"-m", "--multirun"} & set(arguments):
        raise UserError("--multirun: a search tries several values itself; give them as seed=choice(0,1,2)")
    space = [word for word in arguments if _DISTRIBUTION.match(word)]
    return [word for word in arguments if word not in space], space


def resumed_settings(config: DictConfig) -> RunSettings:
    """The settings of the run in the folder `config.resume`; of what was given now, `launch` alone may differ.

    Raises:
        ValueError: the folder is no run's, or the command line sets something else than the run did.
    """
    folder = Path(config.resume)
    stored_file = folder / CONFIG
    if not (folder / PLAN).exists() or not stored_file.exists():
        raise UserError(f"resume={folder} is no run's folder: it needs config.yaml and plan.json")
    stored = _stored_config(stored_file)
    given = OmegaConf.create(run_settings(config).to_json())
    for override in HydraConfig.get().overrides.task:
        key = override.lstrip("+~").partition("=")[0]
        if key == "resume" or key.startswith(("launch", "hydra")):
            continue
        names = [str(name) for name in given if name != "launch"] if key == "experiment" else [key]
        for name in names:
            found = OmegaConf.select(stored, name)
            if found != OmegaConf.select(given, name):
                raise UserError(
                    f"resume={folder}: the run has {name}={_short(found)}, the command line says {override}; "
                    "leave it out, or start a new run"
                )
    merged = OmegaConf.merge(
        OmegaConf.structured(TrainConfig), {"network": OmegaConf.structured(NETWORKS[stored.network.kind])}, stored
    )
    merged.launch = config.launch
    assert isinstance(merged, DictConfig)
    return run_settings(merged)


def _stored_config(file: Path) -> DictConfig:
    """What a run's config.yaml holds."""
    try:
        stored = OmegaConf.load(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is damaged ({' '.join(str(error).split())})") from None
    parts = {part.name for part in fields(RunSettings)}
    if not isinstance(stored, DictConfig) or set(stored) != parts:
        raise UserError(f"{file} is damaged: expected the settings {', '.join(sorted(parts))}")
    return stored


def _short(value: Any) -> str:
    text = str(OmegaConf.to_container(value)) if OmegaConf.is_config(value) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def evaluation_data(config: DictConfig) -> Dataset:
    """The data set that an evaluation's configuration names, or else the run's own."""
    if config.data is not None:
        settings = OmegaConf.to_object(config.data)
    else:
        stored_file = Path(config.run) / CONFIG
        if not stored_file.exists():
            raise UserError(f"run={config.run} is no run's folder: it has no config.yaml")
        stored = _stored_config(stored_file)
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataSettings), stored.data))
    assert isinstance(settings, DataSettings)
    return prepare_data(settings)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Around a script: a user's mistake ends it with one line and exit code 1, Ctrl-C with 130."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come up to here instead of being printed in full
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        _fail(one_line(error))
    except JobFailed as error:
        _fail(str(error))
    except KeyboardInterrupt:
        console.print("stopped")
        sys.exit(130)


@contextmanager
def clear_job_errors(resume: str | None = None) -> Iterator[None]:
    """Around a script's job: as `clear_errors`, before Hydra adds lines of its own, and says how to `resume` the run.

    In a multirun errors go up to Hydra, which runs the other jobs first.
    """
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        yield
        return
    with clear_errors():
        try:
            yield
        except KeyboardInterrupt:
            if not resume:
                raise
            console.print(f"stopped; go on with: python experiments/train.py {_resuming(resume)}", soft_wrap=True)
            sys.exit(130)
        except (JobFailed, OSError):
            if resume:
                again = _resuming(resume)
                console.print(f"what all processes did is kept; once the cause is removed: {again}", soft_wrap=True)
            raise


def _resuming(folder: str) -> str:
    """The arguments that go on with the run in `folder`: how it is launched is not kept there, but said each time."""
    launch = [word for word in HydraConfig.get().overrides.task if word.lstrip("+").startswith("launch")]
    return shlex.join([f"resume={folder}", *launch])


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    if os.environ.get("PARTRAIN_TRACEBACK"):
        traceback.print_exc()
    sys.exit(1)


def one_line(error: BaseException) -> str:
    """`error` for the user, without Hydra's and OmegaConf's layout.

    A group's option that does not exist is listed with those that do.
    """
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file is not None:
        group, _, option = error.missing_cfg_file.rpartition("/")
        known = ", ".join(sorted(error.options))
        return f"{group}={option} is unknown; known: {known}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, OmegaConfBaseException):
        return _setting_error(error, lines[0])
    if isinstance(error, HydraException) and error.__cause__ is not None:
        return one_line(error.__cause__)
    return " ".join(lines) or type(error).__name__


def _setting_error(error: OmegaConfBaseException, message: str) -> str:
    key = str(error.full_key or "")
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        known = list(error.parent_node) if isinstance(error.parent_node, DictConfig) else []
        if key.rpartition(".")[0].endswith("options"):
            return f"there is no setting {key} yet; add it as +{key}=<value>"
        return checks.no_setting(key, map(str, known))
    return f"{key}: {message}" if key and key not in message else message
