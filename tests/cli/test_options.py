"""Tests that every option of every group has its own settings alone: all others are refused with their option's name."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from scripting import ROOT, TINY, run_script

from partrain import RunSettings
from partrain.cli.config import register_schemas, run_settings
from partrain.cli.errors import one_line
from partrain.errors import UserError
from partrain.options import Option, field_types
from partrain.runs.command import override
from partrain.runs.config_file import read_config
from partrain.settings import GROUPS

NEEDED = {"network": "own_networks:overflowing", "labels": "own_networks:Thirds"}
"""The names of members of the families custom."""


def settings_of(group: str, option: str) -> Option:
    """Return the settings of an option with its defaults."""
    values = {"name": NEEDED[group]} if option == "custom" else {}
    made: Option = GROUPS[group].classes[option](**values)
    return made


def foreign_settings() -> Iterator[tuple[str, str, str]]:
    """Yield group, option and setting for each setting that another option of the group has, and this one has not."""
    for group, options in GROUPS.items():
        known = {name for settings in options.classes.values() for name in field_types(settings)}
        for option, settings in options.classes.items():
            for name in sorted(known - set(field_types(settings))):
                yield group, option, name


def own_settings() -> Iterator[tuple[str, str]]:
    """Yield group and option for every option."""
    for group, options in GROUPS.items():
        for option in options.classes:
            yield group, option


FOREIGN = list(foreign_settings())
OWN = [(group, option) for group, option in own_settings() if option != "end_to_end"]


def message(group: str, name: str) -> str:
    """Return the message by which a setting is refused, from the owners that the schemas have."""
    owners = [
        f"{group}={option}" for option, settings in GROUPS[group].classes.items() if name in field_types(settings)
    ]
    advice = f"add {owners[0]}" if len(owners) == 1 else "choose one of them"
    return f"{group}.{name} is a setting of {', '.join(owners)}; {advice}, or leave it out"


def value_of(group: str, name: str) -> Any:
    """Return the default of a setting, as the first option has it that has it."""
    owner = next(option for option, cls in GROUPS[group].classes.items() if name in field_types(cls))
    return getattr(settings_of(group, owner), name)


@pytest.fixture
def _hydra() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def test_there_are_settings_of_other_options() -> None:
    assert {group for group, _, _ in FOREIGN} == set(GROUPS)
    assert ("labels", "simplex", "density") in FOREIGN
    assert ("strategy", "synthetic", "microbatches") in FOREIGN


@pytest.mark.parametrize(("group", "option", "name"), FOREIGN)
@pytest.mark.usefixtures("_hydra")
def test_a_setting_of_another_option_is_refused(group: str, option: str, name: str, tmp_path: Path) -> None:
    """On the command line, from Python, and in the file that a run is resumed from."""
    chosen = asdict(settings_of(group, option))
    value = value_of(group, name)
    words = [f"{group}={option}", *([override(f"{group}.name", NEEDED[group])] if option == "custom" else [])]
    with pytest.raises(ConfigCompositionException) as composed:
        compose("train", [*words, override(f"{group}.{name}", value)])
    assert one_line(composed.value) == message(group, name)

    with pytest.raises(UserError) as made:
        RunSettings.from_dict({group: {**chosen, name: value}})
    assert str(made.value) == message(group, name)

    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"format": 2, **RunSettings().to_dict(), group: {**chosen, name: value}}))
    with pytest.raises(UserError) as read:
        read_config(path)
    assert str(read.value) == f"{path}: {message(group, name)}"


@pytest.mark.parametrize(("group", "option"), OWN)
@pytest.mark.usefixtures("_hydra")
def test_every_setting_of_an_option_is_accepted(group: str, option: str, tmp_path: Path) -> None:
    expected = settings_of(group, option)
    words = [f"{group}={option}"]
    words += [override(f"{group}.{name}", value) for name, value in asdict(expected).items() if value != {}]
    composed = run_settings(compose("train", words))
    assert getattr(composed, group) == expected
    assert RunSettings.from_dict(composed.to_dict()) == composed
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"format": 2, **composed.to_dict()}))
    assert read_config(path) == composed


@pytest.mark.parametrize("group", GROUPS)
def test_a_multirun_refuses_them_as_a_run_does(group: str, tmp_path: Path) -> None:
    _, option, name = next(entry for entry in FOREIGN if entry[0] == group)
    words = [f"{group}={option}", *([override(f"{group}.name", NEEDED[group])] if option == "custom" else [])]
    word = override(f"{group}.{name}", value_of(group, name))
    outcome = run_script("train", "-m", *TINY[:2], *words, word, "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert outcome.code == 1
    assert outcome.error == f"error: {message(group, name)}"


def test_a_multirun_accepts_each_options_own(tmp_path: Path) -> None:
    outcome = run_script(
        *("train", "-m", *TINY, "labels=sparse", "labels.density=0.2,0.3", "partition.dry_run=true"),
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
    )
    assert outcome.code == 0
    densities = [read_config(tmp_path / "sweep" / index / "config.yaml").labels.density for index in "01"]  # type: ignore[attr-defined]
    assert densities == [0.2, 0.3]
