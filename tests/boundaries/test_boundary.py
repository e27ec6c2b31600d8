"""Boundaries: both sides agree on the codes, samples mean what their targets say, projections are exact."""

from dataclasses import replace

import pytest
import torch
from torch import fx, nn

from partrain.boundaries.boundary import Projection, SyntheticBoundary, needs_projection
from partrain.boundaries.code_layout import code_grid, code_size, lay_out_codes
from partrain.boundaries.labels import LABELS, SimplexLabels
from partrain.data.batches import Batch

SHAPES = ([512], [5, 96], [64, 7, 7], [16, 8, 8])


def boundary(
    shape: list[int], device: torch.device | str = "cpu", index: int = 1, seed: int = 0, **settings: object
) -> SyntheticBoundary:
    return SyntheticBoundary(
        index, shape, 47, LABELS.from_dict({"name": "simplex", **settings}), seed, torch.device(device)
    )  # type: ignore[arg-type]


def batch(size: int, step: int = 0) -> Batch:
    return Batch(step, torch.arange(size))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("family", [name for name in LABELS.classes if name != "custom"])
def test_similarity_samples_have_exactly_the_scores_of_their_targets(family: str, shape: list[int]) -> None:
    side = boundary(shape, name=family)
    features, targets = side.sample(batch(64))
    assert features.shape == (64, *shape)
    assert torch.allclose(targets.sum(dim=1), torch.ones(64))
    torch.testing.assert_close(side.scores(features).softmax(dim=1), targets, atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("family", [name for name in LABELS.classes if name != "custom"])
def test_clean_codes_under_mse_decode_to_their_class_at_no_loss(family: str, shape: list[int]) -> None:
    side = boundary(shape, name=family, loss="mse", noise=0.0)
    features, targets = side.sample(batch(256))
    assert torch.equal(side.scores(features).argmax(dim=1), targets)
    assert side.loss(features, targets) == 0


def test_the_papers_labels_are_uniform_up_to_kappa() -> None:
    side = boundary([2048], name="uniform", loss="mse", scale=3.0, noise=0.0)
    assert 0 <= side.codes.min() < 0.01
    assert 2.99 < side.codes.max() <= 3.0


def test_noise_under_mse_is_relative_to_the_codes() -> None:
    side = boundary([512], name="gaussian", loss="mse", scale=2.0, noise=0.5)
    features, targets = side.sample(batch(4000))
    error = features - side.codes[targets]
    assert abs(error.std() / side.codes.std() - 0.5) < 0.01


def test_samples_depend_on_seed_boundary_and_step_alone() -> None:
    first = boundary([32], name="gaussian")
    again = boundary([32], name="gaussian")
    again.sample(batch(7, step=9))
    assert torch.equal(first.sample(batch(8, step=3))[0], again.sample(batch(8, step=3))[0])
    assert not torch.equal(first.sample(batch(8, step=3))[0], first.sample(batch(8, step=4))[0])
    assert not torch.equal(first.codes, boundary([32], name="gaussian", index=2).codes)
    assert not torch.equal(first.codes, boundary([32], name="gaussian", seed=1).codes)


def test_both_devices_have_the_same_codes(device: torch.device) -> None:
    assert torch.equal(boundary([64, 7, 7], device).codes.cpu(), boundary([64, 7, 7]).codes)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_projection_keeps_scores_and_drops_the_rest(shape: list[int]) -> None:
    side = boundary(shape)
    project = Projection(side)
    output = torch.randn(16, *shape, generator=torch.Generator().manual_seed(0))
    projected = project(output)
    centred = side.scores(output) - side.scores(output).mean(dim=1, keepdim=True)
    torch.testing.assert_close(side.scores(projected), centred, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(project(projected), projected, atol=1e-4, rtol=1e-3)
    features, _ = side.sample(batch(16))
    torch.testing.assert_close(project(features), features, atol=1e-3, rtol=1e-3)
    assert project.state_dict() == {}


def segment_of(*layers: nn.Module) -> fx.GraphModule:
    return fx.symbolic_trace(nn.Sequential(*layers))


def test_settling_a_linear_layer_is_the_projection_before_it() -> None:
    side = boundary([64, 2, 2])
    segment = segment_of(nn.Flatten(), nn.Linear(256, 10), nn.ReLU())
    output = torch.randn(16, 64, 2, 2, generator=torch.Generator().manual_seed(0))
    expected = segment(Projection(side)(output))
    side.project_onto_codes(segment)
    torch.testing.assert_close(segment(output), expected, atol=1e-4, rtol=1e-3)
    assert not needs_projection(segment, SimplexLabels())


@pytest.mark.parametrize("first", [nn.Conv2d(64, 8, 3), nn.BatchNorm2d(64), nn.ReLU()], ids=lambda m: type(m).__name__)
def test_other_first_layers_keep_their_weights_and_need_a_projection(first: nn.Module) -> None:
    segment = segment_of(first, nn.Flatten())
    before = {name: tensor.clone() for name, tensor in segment.state_dict().items()}
    boundary([64, 2, 2]).project_onto_codes(segment)
    assert all(torch.equal(before[name], tensor) for name, tensor in segment.state_dict().items())
    assert needs_projection(segment, SimplexLabels())
    assert not needs_projection(segment, replace(SimplexLabels(), loss="mse"))


def test_code_grid_gives_every_class_a_direction() -> None:
    assert code_grid([64, 7, 7], 47) == 2
    assert code_grid([8, 14, 14], 47) == 3
    assert code_grid([512, 1, 1], 47) == 1
    assert code_size([8, 14, 14], 47) == 72
    codes = torch.randn(47, code_size([8, 14, 14], 47))
    laid = lay_out_codes(codes, [8, 14, 14], 47).view(47, 8, 14, 14)
    assert torch.allclose(laid[:, :, ::13, ::13], codes.view(47, 8, 3, 3)[:, :, ::2, ::2], atol=1e-6), (
        "corners are cells"
    )
