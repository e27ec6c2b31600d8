"""Tests of experiments/simulate.py: makespans on other devices, simulated from measured costs."""

from pathlib import Path

import pytest
from scripting import run_script

from partrain.shards.makespans import SimulateSettings, simulate_makespans
from partrain.shards.scheduler import Cost
from partrain.shards.simulator import Load, write_loads


@pytest.fixture
def costs(tmp_path: Path) -> str:
    """A file with the costs of two models of 3 s a step and 10 steps, one of 1 s and 90 steps, and one that did no step."""
    units = tuple(Cost(seconds=1.0) for _ in range(3))
    path = tmp_path / "costs.json"
    short = Load(units=units, steps=10)
    write_loads(path, [short, short, Load(units=units[:1], steps=90), Load(units=units, steps=0)])
    return str(path)


def test_makespans_and_what_no_schedule_is_under(costs: str) -> None:
    settings = SimulateSettings(costs=costs, devices=[1, 2, 8])
    one, two, eight = simulate_makespans(settings, settings.read_loads())
    assert (one.makespan, one.equal_share, one.critical_path) == (150, 150, 90)
    assert (two.makespan, two.equal_share, two.critical_path) == (90, 75, 90)
    assert (eight.makespan, eight.speedup) == (90, pytest.approx(150 / 90))
    assert two.busy == pytest.approx(150 / 180)
    settings = SimulateSettings(costs=costs, devices=[1], copies=2, steps=2)
    (more,) = simulate_makespans(settings, settings.read_loads())
    assert more.makespan == 2 * (6 + 6 + 2 + 6)  # the fourth model does steps too


def test_what_is_printed(costs: str, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    outcome = run_script(
        "simulate", f"costs={costs}", "devices=[2]", "policies=[longest_remaining,fifo]", f"csv={table}"
    )
    assert outcome.code == 0, outcome.err
    assert "3 models, 110 steps, from " in outcome.out
    assert "Nothing is gained by more than 2 devices: the longest model alone takes 1 min 30 s." in outcome.out
    rows = table.read_text().splitlines()
    assert rows[0] == "devices,policy,makespan,critical_path,equal_share,busy,speedup"
    assert rows[1].startswith("2,longest_remaining,90.0,90.0,75.0,")
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "costs=<file> is missing; give the costs.json in the folder of a sharded training"),
        (["costs=/nowhere/costs.json"], "costs=/nowhere/costs.json: there is no such file"),
        (["costs=x", "devices=[0]"], "devices must be at least 1, got 0"),
        (["costs=x", "devices=[]"], "devices=[] is empty; give at least one number, e.g. devices=[1,2,4]"),
        (["costs=x", "copies=0"], "copies must be at least 1, got 0"),
        (["costs=x", "policies=[best]"], "policies=best is unknown; known: fifo, longest_remaining, random"),
        (["costs=x", "device=[2]"], "device is not a setting; did you mean devices?"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str) -> None:
    outcome = run_script("simulate", *words)
    assert (outcome.code, outcome.error) == (1, f"error: {message}")


def test_costs_that_are_no_costs(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text("{")
    assert run_script("simulate", f"costs={path}").error.startswith(f"error: {path} is damaged")
    path.write_text('{"accuracy": 0.5}')
    assert run_script("simulate", f"costs={path}").error == (
        f"error: {path} is damaged: it does not hold the costs of a sharded training; give another training's costs.json"
    )
    write_loads(path, [Load(units=(Cost(seconds=1.0),), steps=0)])
    assert run_script("simulate", f"costs={path}").error == (
        f"error: costs={path} holds no model that did a step; give the costs.json of another sharded training"
    )
