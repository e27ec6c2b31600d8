"""Tests of the settings of a run as a whole: the option of a group, and what results depend on."""

import pytest

from partrain import Alone, Pack, RunSettings, Shards, TrainSettings
from partrain.errors import UserError
from partrain.launch.settings import Inline, Local
from partrain.settings import GROUPINGS


@pytest.mark.parametrize(("name", "settings"), GROUPINGS.classes.items())
def test_the_name_of_a_grouping_is_that_of_its_class(name: str, settings: type) -> None:
    assert settings(name=name) == settings()
    other = "pack" if name != "pack" else "shards"
    with pytest.raises(UserError) as caught:
        settings(name=other)
    assert str(caught.value) == (
        f"grouping.name={other} does not fit {settings.__name__}, whose name is {name}; "
        f"choose another option as grouping={other}"
    )


def test_results_do_not_depend_on_how_trainings_are_grouped_and_launched() -> None:
    fingerprint = RunSettings().fingerprint()
    for grouping in (Alone(), Pack(trial=False), Shards(budget_gib=1.0)):
        for launch in (Inline(device="cpu", threads=2), Local(max_restarts=0)):
            assert RunSettings(grouping=grouping, launch=launch).fingerprint() == fingerprint
    assert not {"grouping", "launch"} & fingerprint.keys()
    assert RunSettings(train=TrainSettings(lr=0.5)).fingerprint() != fingerprint
