"""Tests of plans in the cache: the same ones, made once, and made anew for whatever they depend on."""

from pathlib import Path
from typing import Any

import pytest

from partrain.networks import MLP, CustomNetwork, NetworkSettings
from partrain.partition import cached_plan as module
from partrain.partition.cached_plan import cached_plan
from partrain.partition.plan import PartitionSettings, Plan, make_plan

SHAPE = (1, 8, 8)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Return a list that every plan which is made is added to. The cache is empty."""
    plans: list[Plan] = []

    def make(*arguments: Any) -> Plan:
        plans.append(make_plan(*arguments))
        return plans[-1]

    monkeypatch.setenv("PARTRAIN_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "make_plan", make)
    return plans


def plan_of(network: NetworkSettings | None = None, batch_size: int = 64, classes: int = 5, **settings: Any) -> Plan:
    return cached_plan(network or MLP(depth=4), SHAPE, classes, PartitionSettings(**settings), batch_size)


def test_a_plan_is_made_once_and_read_as_it_was(made: list[Plan]) -> None:
    assert plan_of() == plan_of() == plan_of(dry_run=True) == made[0]
    assert len(made) == 1


@pytest.mark.parametrize("changed", [{"network": MLP(depth=5)}, {"batch_size": 32}, {"classes": 6}, {"segments": 3}])
def test_another_plan_is_made_for_other_settings(changed: dict[str, Any], made: list[Plan]) -> None:
    plan_of()
    plan_of(**changed)
    assert len(made) == 2


def test_another_plan_is_made_by_other_code(made: list[Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    plan_of()
    monkeypatch.setattr(module, "_code_digest", lambda: "of another version")
    plan_of()
    assert len(made) == 2


def test_a_users_own_network_is_never_cached(made: list[Plan], tmp_path: Path) -> None:
    for _ in range(2):
        plan_of(CustomNetwork(name="own_networks:attending"))
    assert len(made) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"segments": [{"index": 0}]}'])
def test_a_damaged_file_is_made_anew(text: str, made: list[Plan], tmp_path: Path) -> None:
    plan = plan_of()
    (path,) = tmp_path.glob("plans/*.json")
    whole = path.read_text()
    path.write_text(text)
    assert plan_of() == plan
    assert path.read_text() == whole
    assert len(made) == 2


def test_a_cache_that_cannot_be_written_to_costs_time_only(made: list[Plan], tmp_path: Path) -> None:
    (tmp_path / "plans").write_text("no folder")
    assert plan_of() == plan_of()
    assert len(made) == 2
