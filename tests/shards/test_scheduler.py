"""Tests of the scheduler, its policies, and the simulator that runs both."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from partrain.errors import UserError
from partrain.shards.policies import FirstReady, LongestRemaining, Random, ReadyModels
from partrain.shards.scheduler import Cost, Scheduler, Unit, num_units, unit_at
from partrain.shards.simulator import Load, Simulation, lower_bound, read_loads, simulate, write_loads


def load(*seconds: float, steps: int = 1, transfer: float = 0.0) -> Load:
    """Return a model whose units take these seconds, and whose shards take `transfer` seconds to copy."""
    units = tuple(Cost(seconds=unit_seconds, load=transfer, store=transfer) for unit_seconds in seconds)
    return Load(units=units, steps=steps)


def test_the_units_of_a_step() -> None:
    units = [unit_at(7, 2, position, 3) for position in range(num_units(3))]
    assert [(unit.shard, unit.is_forward, unit.is_backward) for unit in units] == [
        (0, True, False),
        (1, True, False),
        (2, True, True),
        (1, False, True),
        (0, False, True),
    ]
    assert unit_at(7, 2, 0, 1) == Unit(model_id=7, step=2, position=0, shard=0, is_forward=True, is_backward=True)


def ready(remaining: list[float], resident: list[bool] | None = None, step: float = 1.0) -> ReadyModels:
    """Return models with these remaining seconds, of which the last has been ready for the longest time."""
    count = len(remaining)
    return ReadyModels(
        remaining_seconds=np.array(remaining),
        step_seconds=np.full(count, step),
        ready_since=np.arange(count)[::-1],
        is_resident=np.array(resident or [False] * count),
    )


def test_the_longest_is_chosen_unless_one_that_is_nearly_as_long_saves_a_transfer() -> None:
    policy = LongestRemaining()
    assert policy.choose(ready([3.0, 5.0, 4.0])) == 1
    assert policy.choose(ready([5.0, 5.0])) == 0
    assert policy.choose(ready([3.0, 5.0, 4.0], [False, False, True])) == 2
    assert policy.choose(ready([3.0, 5.0, 4.0], [True, False, False])) == 1  # It is too far behind.
    assert FirstReady().choose(ready([3.0, 5.0, 4.0])) == 2
    assert {Random(0).choose(ready([1.0] * 3)) for _ in range(5)} == {Random(0).choose(ready([1.0] * 3))}


@pytest.mark.parametrize("num_devices", [1, 2])
def test_a_reserved_device_only_ends_the_steps_that_need_it(num_devices: int) -> None:
    """Reserve device 0 while it holds activations of one model at least, and compute until it is free."""
    scheduler = Scheduler(num_devices, LongestRemaining(), pins_backward=True, double_buffer=False)
    for _ in range(3):
        scheduler.add(3, 10, [1.0] * 5)
    for device, unit in scheduler.assign():
        scheduler.complete(device, unit)
    assert not scheduler.is_free(0)
    scheduler.reserved.add(0)
    begun_on = []
    while not scheduler.is_free(0):
        assigned = scheduler.assign()
        assert assigned
        begun_on += [device for device, unit in assigned if unit.position == 0]
        for device, unit in assigned:
            scheduler.complete(device, unit)
    assert 0 not in begun_on
    assert {device for device, _ in scheduler.assign()} == set(range(1, num_devices))
    scheduler.remove_all()
    assert not scheduler.has_work()
    assert not scheduler.reserved


def test_idle_devices_come_first_and_none_waits_behind_another_in_vain() -> None:
    scheduler = Scheduler(2, LongestRemaining(), pins_backward=False)
    for _ in range(3):
        scheduler.add(1, 1, [1.0])
    assert [(device, unit.model_id) for device, unit in scheduler.assign()] == [(0, 0), (1, 1)]
    assert scheduler.assign() == []  # The third is for the first idle device.
    scheduler.complete(1, unit_at(1, 0, 0, 1))
    assert [(device, unit.model_id) for device, unit in scheduler.assign()] == [(1, 2)]
    more = Scheduler(2, LongestRemaining(), pins_backward=False)
    for _ in range(5):
        more.add(1, 1, [1.0])
    assert [(device, unit.model_id) for device, unit in more.assign()] == [(0, 0), (1, 1), (0, 2), (1, 3)]


def test_a_tied_backward_pass_is_where_the_forward_pass_was() -> None:
    for pins_backward in (True, False):
        result = simulate([load(1.0, 2.0, 3.0, steps=5) for _ in range(5)], 3, Random(1), pins_backward=pins_backward)
        homes = {
            (unit.model_id, unit.step, unit.shard): device for device, unit, _, _ in result.timeline if unit.is_forward
        }
        same = [
            homes[unit.model_id, unit.step, unit.shard] == device
            for device, unit, _, _ in result.timeline
            if not unit.is_forward
        ]
        assert len(same) == 25
        assert all(same) == pins_backward


def test_a_model_that_ends_early_and_one_that_is_dropped() -> None:
    scheduler = Scheduler(1, FirstReady(), pins_backward=False, double_buffer=False)
    scheduler.add(1, 10, [1.0])
    scheduler.add(1, 10, [1.0])
    ((_, unit),) = scheduler.assign()
    scheduler.complete(0, unit)
    scheduler.set_num_steps(0, 1)
    scheduler.remove(1)
    assert scheduler.assign() == []
    assert not scheduler.has_work()


def test_closing_ends_the_steps_that_are_begun_and_begins_none() -> None:
    scheduler = Scheduler(1, FirstReady(), pins_backward=False, double_buffer=False)
    scheduler.add(2, 5, [1.0] * 3)
    scheduler.add(2, 5, [1.0] * 3)
    ((_, unit),) = scheduler.assign()
    scheduler.is_draining = True
    done = []
    while unit:
        scheduler.complete(0, unit)
        done.append((unit.model_id, unit.step, unit.position))
        unit = next((assigned for _, assigned in scheduler.assign()), None)
    assert done == [(0, 0, 0), (0, 0, 1), (0, 0, 2)]
    assert not scheduler.has_work()


def test_what_a_lost_device_takes_with_it() -> None:
    scheduler = Scheduler(2, FirstReady(), pins_backward=True, double_buffer=False)
    scheduler.add(2, 5, [1.0] * 3)
    scheduler.add(2, 5, [1.0] * 3)
    (_, first), (_, second) = scheduler.assign()
    scheduler.complete(0, first)  # Its activations are kept on device 0.
    scheduler.complete(1, second)
    assert scheduler.lose_device(0) == [0]
    scheduler.restart(0, 0)
    assert scheduler.next_unit(0) == unit_at(0, 0, 0, 2)


def test_a_model_that_has_left_is_not_lost_with_a_device() -> None:
    scheduler = Scheduler(1, FirstReady(), pins_backward=True, double_buffer=False)
    scheduler.add(2, 5, [1.0] * 3)
    ((_, unit),) = scheduler.assign()
    scheduler.complete(0, unit)  # Its activations are kept there.
    scheduler.remove(0)
    assert scheduler.lose_device(0) == []


def overlaps(result: Simulation) -> bool:
    """Return whether a model or a device ever does two things at once, or a model's units are out of order."""
    by_model: dict[int, list[tuple[float, float, int, int]]] = {}
    by_device: dict[int, list[tuple[float, float]]] = {}
    for device, unit, begin, end in result.timeline:
        by_model.setdefault(unit.model_id, []).append((begin, end, unit.step, unit.position))
        by_device.setdefault(device, []).append((begin, end))
    for spans in by_model.values():
        spans.sort(key=lambda span: span[2:])
        if any(after[0] < before[1] - 1e-9 for before, after in itertools.pairwise(spans)):
            return True
    for times in by_device.values():
        times.sort()
        if any(after[0] < before[1] - 1e-9 for before, after in itertools.pairwise(times)):
            return True
    return False


@pytest.mark.parametrize("policy", [LongestRemaining(), FirstReady(), Random(0)])
@pytest.mark.parametrize("double_buffer", [True, False])
def test_a_simulation_does_every_unit_once_and_nothing_twice_at_once(policy: object, double_buffer: bool) -> None:
    draw = random.Random(0)
    loads = [
        load(*(draw.uniform(1, 5) for _ in range(2 * draw.randint(1, 4) - 1)), steps=draw.randint(1, 9), transfer=0.5)
        for _ in range(7)
    ]
    result = simulate(loads, 3, policy, double_buffer=double_buffer)  # type: ignore[arg-type]
    done = [(unit.model_id, unit.step, unit.position) for _, unit, _, _ in result.timeline]
    expected = {(n, s, p) for n, model in enumerate(loads) for s in range(model.steps) for p in range(len(model.units))}
    assert (len(done), set(done)) == (len(expected), expected)
    assert not overlaps(result)
    assert result.makespan >= result.lower_bound == lower_bound(loads, 3)
    work = sum(model.seconds for model in loads)
    assert result.busy == pytest.approx(work / (3 * result.makespan))


def test_makespans_that_can_be_told_by_hand() -> None:
    one = simulate([load(1.0, 2.0, 3.0, steps=4)], 2, LongestRemaining())
    assert one.makespan == pytest.approx(24)  # A model alone waits for itself.
    two = simulate([load(1.0, steps=6), load(1.0, steps=6)], 2, LongestRemaining())
    assert two.makespan == pytest.approx(6)
    # Alone, the next shard is copied in beside the computation. What has changed is copied back before the next unit.
    alone = load(2.0, 3.0, 2.0, steps=4, transfer=0.5)
    assert simulate([alone], 1, FirstReady()).makespan == pytest.approx(0.5 + 4 * (7.0 + 3 * 0.5))
    assert alone.critical_path == pytest.approx(0.5 + 4 * (7.0 + 3 * 0.5))
    # Transfers beside the computation of others take no time of their own, but for the first in and the last out.
    hidden = simulate([load(2.0, steps=3, transfer=1.0) for _ in range(4)], 1, FirstReady())
    assert hidden.makespan == pytest.approx(1 + 4 * 3 * 2 + 1)
    shown = simulate([load(2.0, steps=3, transfer=1.0) for _ in range(4)], 1, FirstReady(), double_buffer=False)
    assert shown.makespan == pytest.approx(4 * 3 * (1 + 2 + 1))


def test_longest_first_beats_first_in_where_one_model_is_longer() -> None:
    loads = [load(1.0, steps=10) for _ in range(6)] + [load(1.0, steps=30)]
    longest, fifo = (simulate(loads, 3, policy) for policy in (LongestRemaining(), FirstReady()))
    assert longest.makespan == longest.lower_bound == 30
    assert fifo.makespan > 35


def test_costs_are_kept(tmp_path: Path) -> None:
    loads = [load(1.0, 2.0, 3.0, steps=4, transfer=0.5), load(2.0)]
    write_loads(tmp_path / "costs.json", loads)
    assert read_loads(tmp_path / "costs.json") == read_loads(str(tmp_path / "costs.json")) == loads


def test_what_cannot_be_simulated() -> None:
    with pytest.raises(UserError, match=r"^There is no model to simulate; give at least one load$"):
        simulate([], 2, FirstReady())
    with pytest.raises(UserError, match=r"^devices must be at least 1, got 0$"):
        simulate([load(1.0)], 0, FirstReady())
    with pytest.raises(UserError, match=r"^A step of n shards has 2 n - 1 units, which is an odd number; got 2 units$"):
        load(1.0, 2.0)
