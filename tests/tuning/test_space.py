"""Tests of search spaces: how entries are parsed, what is drawn from them, and what is reported as wrong."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from partrain.errors import UserError
from partrain.tuning.space import Dimension, Space

KNOWN = "choice(a,b,...), integer(low,high), loginteger(low,high), loguniform(low,high), uniform(low,high)"


def draws(entry: str, count: int = 4000) -> list[Any]:
    """Return `count` values drawn from the distribution of an entry."""
    space, generator = Space.parse([entry]), np.random.default_rng(0)
    return [space.sample(generator)[space.names[0]] for _ in range(count)]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("train.lr=loguniform(1e-4,1e-1)", Dimension("train.lr", "loguniform", (1e-4, 1e-1))),
        (" labels.noise=uniform(0, 3) ", Dimension("labels.noise", "uniform", (0, 3))),
        ("network.depth=integer(2,4)", Dimension("network.depth", "integer", (2, 4))),
        ("+network.options.width=loginteger(16,256)", Dimension("network.options.width", "loginteger", (16, 256))),
        (
            "labels.name=choice(sparse,my_labels:Own)",
            Dimension("labels.name", "choice", ("sparse", "my_labels:Own")),
        ),
        ("partition.at=choice([2],[2,linear4])", Dimension("partition.at", "choice", ([2], [2, "linear4"]))),
        ("train.weight_decay=choice(null,1e-2,.5)", Dimension("train.weight_decay", "choice", (None, 0.01, 0.5))),
        ("train.compile=choice(true,false)", Dimension("train.compile", "choice", (True, False))),
    ],
)
def test_an_entry(entry: str, expected: Dimension) -> None:
    assert Dimension.parse(entry) == expected


def test_axes() -> None:
    logarithmic = {
        name: Dimension("a", name, (1, 2)).is_logarithmic for name in ("uniform", "loguniform", "loginteger")
    }
    assert logarithmic == {"uniform": False, "loguniform": True, "loginteger": True}


def test_what_is_drawn_lies_where_it_should() -> None:
    uniform = draws("train.lr=uniform(2,6)")
    assert 2 <= min(uniform) < 2.01 < 5.99 < max(uniform) <= 6
    assert abs(np.mean(uniform) - 4) < 0.1
    logarithmic = draws("train.lr=loguniform(1e-4,1e-1)")
    assert 1e-4 <= min(logarithmic) < max(logarithmic) <= 1e-1
    thirds = Counter(int(np.log10(value) + 4) for value in logarithmic)
    assert all(abs(thirds[third] / 4000 - 1 / 3) < 0.03 for third in range(3))
    integers = Counter(draws("network.depth=integer(2,4)"))
    assert sorted(integers) == [2, 3, 4]
    assert all(type(value) is int and abs(count / 4000 - 1 / 3) < 0.03 for value, count in integers.items())
    sizes = draws("train.batch_size=loginteger(1,7)")
    counts = Counter(sizes)
    assert sorted(counts) == [1, 2, 3, 4, 5, 6, 7]
    assert abs(counts[1] / 4000 - 1 / 3) < 0.03  # log(2 / 1) of log(8).
    assert abs(counts[7] / 4000 - np.log(8 / 7) / np.log(8)) < 0.02
    choices = Counter(draws("labels=choice(simplex,sparse)"))
    assert abs(choices["sparse"] / 4000 - 0.5) < 0.03


@pytest.mark.parametrize("distribution", ["uniform", "loguniform", "integer", "loginteger"])
@pytest.mark.parametrize(("low", "high"), [(3, 7), (1, 10), (16, 256)])
def test_the_ends_are_not_passed(distribution: str, low: int, high: int) -> None:
    dimension = Dimension("a", distribution, (low, high))
    assert dimension.quantile(0.0) == low
    assert dimension.quantile(1 - 2**-53) == pytest.approx(high)
    assert low <= dimension.quantile(1 - 2**-53) <= high


def test_a_configuration_depends_on_its_generator_alone() -> None:
    space = Space.parse(["train.lr=loguniform(1e-4,1e-1)", "network.depth=integer(2,9)", "labels=choice(a,b,c)"])
    one, same, other = (space.sample(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert list(one) == ["train.lr", "network.depth", "labels"]


def test_the_grid() -> None:
    space = Space.parse(["network.depth=integer(2,3)", "labels=choice(simplex,sparse)", "partition.at=choice([1])"])
    assert space.grid() == [
        {"network.depth": 2, "labels": "simplex", "partition.at": [1]},
        {"network.depth": 2, "labels": "sparse", "partition.at": [1]},
        {"network.depth": 3, "labels": "simplex", "partition.at": [1]},
        {"network.depth": 3, "labels": "sparse", "partition.at": [1]},
    ]
    assert len(Space.parse(["train.batch_size=loginteger(4,9)"]).grid()) == 6


@pytest.mark.parametrize("distribution", ["uniform", "loguniform"])
def test_a_continuous_setting_has_no_grid(distribution: str) -> None:
    with pytest.raises(UserError) as caught:
        Space.parse(["labels=choice(a,b)", f"train.lr={distribution}(0.1,1)"]).grid()
    assert str(caught.value) == (
        f"train.lr={distribution}(0.1,1) is continuous, which search.method=grid cannot search; "
        "give choice(a,b,...) or integer(low,high)"
    )


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "search.space is empty; give at least one setting, e.g. 'train.lr=loguniform(1e-4,1e-1)'"),
        (
            ["train.lr=0.1"],
            f"search.space: 'train.lr=0.1' is not <setting>=<distribution>(...); the distributions are {KNOWN}",
        ),
        (
            ["train.lr=uniform(0,1"],
            f"search.space: 'train.lr=uniform(0,1' is not <setting>=<distribution>(...); the distributions are {KNOWN}",
        ),
        (["train.lr=normal(0,1)"], f"train.lr=normal(0,1): normal is unknown; known: {KNOWN}"),
        (["train.lr=uniform(1,0)"], "train.lr=uniform(1,0): the lower bound must be first; write uniform(0,1)"),
        (
            ["train.lr=loguniform(1e-1,1e-4)"],
            "train.lr=loguniform(1e-1,1e-4): the lower bound must be first; write loguniform(0.0001,0.1)",
        ),
        (
            ["seed=integer(2,2)"],
            "seed=integer(2,2): the bounds are equal; give two different bounds, or set the one value",
        ),
        (
            ["train.lr=loguniform(0,1)"],
            "train.lr=loguniform(0,1): the bounds of loguniform must be greater than 0, got 0",
        ),
        (
            ["train.batch_size=loginteger(-1,4)"],
            "train.batch_size=loginteger(-1,4): the bounds of loginteger must be greater than 0, got -1",
        ),
        (
            ["train.lr=uniform(1)"],
            "train.lr=uniform(1): uniform has two bounds, got 1; write uniform(low,high)",
        ),
        (["train.lr=uniform(a,1)"], "train.lr=uniform(a,1): a is not a number"),
        (["train.lr=uniform(0,.inf)"], "train.lr=uniform(0,.inf): inf is not a number"),
        (["train.lr=uniform(false,true)"], "train.lr=uniform(false,true): False is not a number"),
        (["network.depth=integer(1.5,3)"], "network.depth=integer(1.5,3): 1.5 is not an integer"),
        (["seed=choice()"], "seed=choice(): there is nothing to choose from; write choice(a,b,...)"),
        (["seed=choice(1,2,1)"], "seed=choice(1,2,1): a value is repeated; give each value once"),
        (
            ["partition.at=choice([1,2)"],
            "partition.at=choice([1,2): the values in the parentheses are not valid YAML; write choice(a,b,...)",
        ),
        (["seed=choice(1,2)", "seed=choice(3,4)"], "search.space: seed is given twice; give it once"),
        (
            ["labels=choice(simplex,sparse)", "labels.name=choice(gaussian)"],
            "search.space: labels.name is given twice; give it once",
        ),
    ],
)
def test_a_mistake_in_the_space_is_one_line(entries: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Space.parse(entries)
    assert str(caught.value) == message
