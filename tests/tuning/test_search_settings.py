"""A search's settings, and what is wrong with them."""

from typing import Any

import pytest

from partrain.errors import UserError
from partrain.tuning.settings import SearchSettings, format_score


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": "annealing"},
            "search.method=annealing is unknown; known: grid, hyperband, random, successive_halving",
        ),
        ({"metric": "f1"}, "search.metric=f1 is unknown; known: validation_accuracy, validation_loss"),
        ({"eta": 1}, "search.eta must be at least 2, got 1"),
        ({"min_epochs": 0}, "search.min_epochs must be at least 1, got 0"),
        ({"method": "random"}, "search.method=random needs search.configurations=<how many>"),
        ({"method": "successive_halving"}, "search.method=successive_halving needs search.configurations=<how many>"),
        ({"method": "random", "configurations": 0}, "search.configurations must be at least 1, got 0"),
        (
            {"configurations": 5},
            "search.configurations=5: search.method=hyperband decides how many; leave it out",
        ),
        (
            {"method": "grid", "configurations": 5},
            "search.configurations=5: search.method=grid decides how many; leave it out",
        ),
    ],
)
def test_a_mistake_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        SearchSettings(**settings)
    assert str(caught.value) == message


def test_metrics() -> None:
    accuracy, loss = SearchSettings(), SearchSettings(metric="validation_loss")
    assert (accuracy.higher_is_better, loss.higher_is_better) == (True, False)
    assert (format_score(accuracy.metric, 0.8412), format_score(loss.metric, 0.8412)) == ("84.12 %", "0.8412")
