"""Tests of budgets: the brackets of every method, and which trials are promoted."""

import pytest

from partrain.errors import UserError
from partrain.tuning.brackets import (
    Bracket,
    Round,
    Rung,
    hyperband,
    one_rung,
    plan_rounds,
    select_best,
    successive_halving,
)


def pairs(brackets: list[Bracket]) -> dict[int, list[tuple[int, int]]]:
    return {bracket.number: [(rung.num_trials, rung.epochs) for rung in bracket.rungs] for bracket in brackets}


def test_the_table_in_the_paper_of_hyperband() -> None:
    assert pairs(hyperband(81, 3, 1)) == {
        4: [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        3: [(34, 3), (11, 9), (3, 27), (1, 81)],
        2: [(15, 9), (5, 27), (1, 81)],
        1: [(8, 27), (2, 81)],
        0: [(5, 81)],
    }


def test_hyperband_of_epochs_that_are_no_power() -> None:
    assert pairs(hyperband(10, 3, 1)) == {2: [(9, 1), (3, 3), (1, 10)], 1: [(5, 3), (1, 10)], 0: [(3, 10)]}
    assert pairs(hyperband(10, 2, 2)) == {2: [(4, 2), (2, 5), (1, 10)], 1: [(3, 5), (1, 10)], 0: [(3, 10)]}
    # 243 = 3^5 and 1000 = 10^3, which logarithms round down.
    assert [bracket.number for bracket in hyperband(243, 3, 1)] == [5, 4, 3, 2, 1, 0]
    assert [bracket.number for bracket in hyperband(1000, 10, 1)] == [3, 2, 1, 0]


@pytest.mark.parametrize("epochs", range(4, 60))
@pytest.mark.parametrize("eta", [2, 3, 4])
def test_every_rung_keeps_one_in_eta_and_trains_longer(epochs: int, eta: int) -> None:
    for bracket in hyperband(epochs, eta, 1):
        assert bracket.rungs[-1].epochs == epochs
        assert bracket.rungs[-1].num_trials >= 1
        for before, after in zip(bracket.rungs, bracket.rungs[1:], strict=False):
            assert before.epochs < after.epochs
            assert after.num_trials == before.num_trials // eta


def test_successive_halving_goes_as_far_as_epochs_and_configurations_allow() -> None:
    assert pairs(successive_halving(30, 9, 3, 1)) == {2: [(30, 1), (10, 3), (3, 9)]}
    assert pairs(successive_halving(5, 81, 3, 1)) == {1: [(5, 27), (1, 81)]}
    assert pairs(successive_halving(27, 9, 3, 3)) == {1: [(27, 3), (9, 9)]}


def test_methods_without_rungs() -> None:
    assert pairs(one_rung(20, 9)) == {0: [(20, 9)]}


def test_rounds_end_where_rungs_of_any_bracket_do() -> None:
    brackets = [Bracket(1, (Rung(4, 2), Rung(2, 6))), Bracket(0, (Rung(3, 5),))]
    assert plan_rounds(brackets) == [Round(0, 2), Round(2, 5), Round(5, 6)]
    assert [planned.count_epochs(brackets) for planned in plan_rounds(brackets)] == [7 * 2, 5 * 3, 2 * 1]
    assert [brackets[0].rung_at(epochs) for epochs in (1, 2, 3, 6, 7)] == [0, 0, 1, 1, None]
    # Hyperband's brackets end rungs at the same epochs: all trials of all of them train together.
    together = plan_rounds(hyperband(27, 3, 1))
    assert [(planned.start, planned.stop) for planned in together] == [(0, 1), (1, 3), (3, 9), (9, 27)]
    assert [planned.count_epochs(hyperband(27, 3, 1)) for planned in together] == [49, 31 * 2, 17 * 6, 8 * 18]


@pytest.mark.parametrize(("epochs", "eta", "least"), [(2, 3, 1), (5, 3, 2), (1, 2, 1), (11, 4, 3)])
def test_the_smallest_budget_of_hyperband_is_said_and_works(epochs: int, eta: int, least: int) -> None:
    with pytest.raises(UserError) as caught:
        hyperband(epochs, eta, least)
    assert str(caught.value) == (
        f"train.epochs={epochs} is too small for a bracket of hyperband with search.eta={eta} and "
        f"search.min_epochs={least}; set it to at least {eta * least}"
    )
    assert [bracket.number for bracket in hyperband(eta * least, eta, least)] == [1, 0]


def test_the_smallest_budget_of_successive_halving_is_said_and_works() -> None:
    with pytest.raises(UserError) as caught:
        successive_halving(9, 2, 3, 1)
    assert str(caught.value) == (
        "train.epochs=2 is too small for a bracket of successive_halving with search.eta=3 and search.min_epochs=1; "
        "set it to at least 3"
    )
    with pytest.raises(UserError) as caught:
        successive_halving(2, 9, 3, 1)
    assert str(caught.value) == (
        "search.configurations=2 is too small for a bracket of successive_halving with search.eta=3; "
        "set it to at least 3"
    )
    assert pairs(successive_halving(3, 3, 3, 1)) == {1: [(3, 1), (1, 3)]}


def test_who_is_promoted() -> None:
    scores = {0: 0.5, 1: 0.7, 2: None, 3: 0.7, 4: 0.6}
    assert select_best(scores, 3, higher_is_better=True) == [1, 3, 4]
    assert select_best(scores, 1, higher_is_better=True) == [1]  # Of equal ones the lower index.
    assert select_best(scores, 3, higher_is_better=False) == [0, 4, 1]
    assert select_best(scores, 5, higher_is_better=True) == [1, 3, 4, 0]  # Never one that failed.
    assert select_best({0: None}, 1, higher_is_better=True) == []
