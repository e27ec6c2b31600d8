"""Label families: shapes, values, distances, and the errors of impossible settings."""

from typing import Any

import pytest
import torch
from torch import Tensor

from partrain.boundaries.labels import LABELS, SimplexLabels, make_codes
from partrain.errors import UserError
from partrain.rng import generator

FAMILIES = [family for family in LABELS.classes if family != "custom"]


def codes_of(family: str, size: int = 512, classes: int = 47, seed: int = 0, **settings: Any) -> Tensor:
    return make_codes(LABELS.from_dict({"name": family, **settings}), classes, size, generator(seed, "codes"))


@pytest.mark.parametrize("family", FAMILIES)
def test_codes_come_from_the_seed_alone(family: str) -> None:
    codes = codes_of(family)
    assert codes.shape == (47, 512)
    assert codes.dtype == torch.float32
    assert torch.equal(codes, codes_of(family))
    assert not torch.equal(codes, codes_of(family, seed=1))
    assert len(codes.unique(dim=0)) == 47


def test_uniform_is_the_papers() -> None:
    codes = codes_of("uniform", size=4096)
    assert 0 <= codes.min() < 0.001
    assert 0.999 < codes.max() < 1
    assert abs(codes.mean() - 0.5) < 0.01


def test_gaussian_is_centred() -> None:
    codes = codes_of("gaussian", size=4096)
    assert abs(codes.mean()) < 0.01
    assert abs(codes.std() - 1) < 0.01


def test_binary_and_sparse_have_their_share_of_ones() -> None:
    assert set(codes_of("binary").unique().tolist()) == {0.0, 1.0}
    sparse = codes_of("sparse", density=0.1)
    assert set(sparse.unique().tolist()) == {0.0, 1.0}
    assert (sparse.sum(dim=1) == 51).all()


def test_hadamard_codes_are_orthogonal_signs() -> None:
    codes = codes_of("hadamard")
    assert set(codes.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(codes @ codes.T, 512 * torch.eye(47))
    assert set(codes_of("hadamard", size=300).unique().tolist()) == {-1.0, 1.0}


def test_simplex_codes_are_equally_far_apart() -> None:
    codes = codes_of("simplex").double()
    gram = codes @ codes.T / 512
    torch.testing.assert_close(gram.diag(), torch.ones(47).double(), atol=1e-5, rtol=0)
    off = gram[~torch.eye(47, dtype=torch.bool)]
    torch.testing.assert_close(off, torch.full_like(off, -1 / 46), atol=1e-5, rtol=0)
    assert codes.sum(dim=0).abs().max() < 1e-4
    assert codes.sum(dim=1).abs().max() < 1e-3


def test_a_family_of_ones_own() -> None:
    codes = codes_of("own_labels:Ternary", options={"density": 0.3})
    assert set(codes.unique().tolist()) == {-1.0, 0.0, 1.0}


def test_one_class_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        make_codes(SimplexLabels(), num_classes=1, size=32, generator=torch.Generator())
    assert str(caught.value) == "data: there is 1 class, at least two are needed; choose other data"


@pytest.mark.parametrize(
    ("family", "size", "message"),
    [
        (
            "hadamard",
            47,
            "labels=hadamard gives at most 46 classes at a boundary of width 47, the data have 47; cut where the "
            "network is wider, or take labels=gaussian",
        ),
        (
            "binary",
            4,
            "labels.name=binary: two classes have the same code at a boundary of width 4; cut where the network is "
            "wider, or change the family or its options",
        ),
        (
            "own_labels:Constant",
            64,
            "labels.name=own_labels:Constant: two classes have the same code at a boundary of width 64; cut "
            "where the network is wider, or change the family or its options",
        ),
        (
            "own_labels:Misshapen",
            64,
            "labels.name=own_labels:Misshapen: codes() returned shape (64, 47), expected (47, 64) (classes, size)",
        ),
        (
            "own_labels:Nothing",
            64,
            "labels.name=own_labels:Nothing: module 'own_labels' has no attribute 'Nothing'; the module "
            "must be importable from the working directory",
        ),
    ],
)
def test_codes_that_cannot_be_had(family: str, size: int, message: str) -> None:
    with pytest.raises(UserError) as caught:
        codes_of(family, size)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "lucky"},
            "labels=lucky is unknown; known: binary, custom, gaussian, hadamard, simplex, sparse, uniform",
        ),
        ({"loss": "hinge"}, "labels.loss=hinge is unknown; known: mse, similarity"),
        ({"density": 0.0}, "labels.density must be in (0, 1], got 0.0"),
        ({"density": 1.5}, "labels.density must be in (0, 1], got 1.5"),
        ({"noise": -1.0}, "labels.noise must be at least 0, got -1.0"),
        ({"scale": 0.0}, "labels.scale must be greater than 0, got 0.0"),
    ],
)
def test_impossible_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as caught:
        LABELS.from_dict({"name": "sparse", **settings})
    assert str(caught.value) == message
