"""Plans: places of cuts, costs of segments, and networks and settings that are refused."""

import json
from dataclasses import asdict
from itertools import combinations, pairwise
from typing import Any

import pytest

from partrain.errors import UserError
from partrain.networks import CNN, MLP, NetworkSettings, TorchvisionModel
from partrain.partition.plan import PartitionSettings, Plan, _split_evenly, make_plan

IMAGES = (1, 28, 28)


def plan_of(network: NetworkSettings | None = None, **settings: Any) -> Plan:
    """Return the plan of a network, by default the paper's, for 28×28 images and 47 classes."""
    return make_plan(network or MLP(), IMAGES, 47, PartitionSettings(**settings), batch_size=256)


def test_costs_of_the_papers_network() -> None:
    plan = plan_of(segments=2)
    first, second = plan.segments
    assert first.parameters == 784 * 512 + 512 + 2 * (512 * 512 + 512)
    assert first.flops == 2 * (784 * 512 + 2 * 512 * 512)
    assert second.flops == 2 * (2 * 512 * 512 + 512 * 47)
    assert first.layers == ["linear0", "linear1", "linear2"]
    assert (first.start, first.stop, first.output_shape) == (None, "relu2", [512])
    assert (second.start, second.stop, second.output_shape) == ("relu2", None, [47])
    # Stored for the backward pass: each linear layer's input, and its output, which is also the ReLU's
    assert first.activation_bytes == 4 * (784 + 512 + 512 + 512)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_segments_are_never_empty_and_cover_the_network(count: int) -> None:
    for balance in ("layers", "compute", "parameters", "memory"):
        plan = plan_of(segments=count, balance=balance)
        assert len(plan.segments) == count
        assert [layer for s in plan.segments for layer in s.layers] == [f"linear{index}" for index in range(6)]
        assert all(segment.layers for segment in plan.segments)


def test_balancing_finds_the_least_largest_share() -> None:
    shares = [5.0, 1.0, 1.0, 4.0, 2.0, 7.0, 3.0, 1.0]
    for pieces in range(1, len(shares) + 1):
        ends = _split_evenly(shares, pieces)
        assert len(ends) == pieces
        assert ends[-1] == len(shares)

        def largest(ends: tuple[int, ...] | list[int]) -> float:
            edges = [0, *ends]
            return max(sum(shares[a:b]) for a, b in pairwise(edges))

        best = min(largest((*cut, len(shares))) for cut in combinations(range(1, len(shares)), pieces - 1))
        assert largest(ends) == best


def test_balance_compute_moves_the_cut_to_where_the_work_is() -> None:
    layers, compute = plan_of(segments=2), plan_of(segments=2, balance="compute")
    assert [len(s.layers) for s in layers.segments] == [3, 3]
    assert [len(s.layers) for s in compute.segments] == [2, 4]
    assert compute.imbalance == pytest.approx(
        max(s.flops for s in compute.segments) * 2 / sum(s.flops for s in compute.segments) - 1
    )


def test_cuts_by_number_and_by_name_agree() -> None:
    assert plan_of(at=[2, 4]).segments == plan_of(at=["linear2", "linear4"]).segments
    assert plan_of(at=["relu1"]).segments == plan_of(at=[2], before_activation=True).segments


def test_a_cut_that_sees_too_little_of_the_image_is_warned_of() -> None:
    assert [s.receptive_field for s in plan_of(CNN(), segments=8).segments] == [3, 7, 15, 28, 28, 28, 28, 28]
    assert plan_of(CNN(), segments=2).warnings() == []
    assert plan_of(MLP(), segments=6).warnings() == []
    assert plan_of(TorchvisionModel(name="vit_b_16"), segments=3).warnings() == []
    assert plan_of(CNN(), at=[2]).warnings() == [
        "Segment 0 ends where a value depends on only 7×7 of 28×28 pixels, too few to tell a class. Cut later."
    ]


def test_a_plan_survives_json() -> None:
    plan = plan_of(TorchvisionModel(name="resnet18"), segments=4)
    assert json.loads(json.dumps(asdict(plan))) == asdict(plan)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"segments": 7}, "partition.segments=7 is more than the network's 6 layers. Set it to 6 or less."),
        ({"segments": 0}, "partition.segments must be at least 1, got 0"),
        ({"at": [6]}, "partition.at=[6]: 6 is out of range, since the network has 6 layers. Use numbers from 1 to 5."),
        ({"at": [0]}, "partition.at=[0]: 0 is out of range, since the network has 6 layers. Use numbers from 1 to 5."),
        (
            {"at": [2, 2]},
            "partition.at=[2, 2] repeats a cut, which would leave a segment empty. Name each cut once.",
        ),
        (
            {"at": [4, 2]},
            "partition.at=[4, 2] is not in ascending order. List the cuts from the first layer to the last.",
        ),
        (
            {"at": ["linear9"]},
            "partition.at: the network has no module 'linear9'. Choose one of its layers: linear0, linear1, linear2, "
            "linear3, linear4, linear5.",
        ),
        (
            {"at": ["flatten"]},
            "partition.at: module 'flatten' is the first of the network, so nothing can be cut off before it. "
            "Choose a later module.",
        ),
        (
            {"at": ["relu2", "linear3"]},
            "partition.at=['relu2', 'linear3'] leaves a segment without any layer with weights. Move one of the cuts.",
        ),
        (
            {"at": [3], "segments": 3},
            "partition.at=[3] makes 2 segments, but partition.segments=3. Give only one of the two.",
        ),
        ({"balance": "luck"}, "partition.balance=luck is unknown; known: compute, layers, memory, parameters"),
    ],
)
def test_what_cannot_be_cut(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        plan_of(**settings)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(width=0), "network.width must be at least 1, got 0"),
        (lambda: MLP(widths=[8, 0]), "network.widths must be at least 1, got 0"),
        (lambda: MLP(depth=0), "network.depth must be at least 1, got 0"),
        (
            lambda: MLP(activation="sine"),
            "network.activation=sine is unknown; known: gelu, leaky_relu, relu, silu, tanh",
        ),
        (lambda: CNN(pool_after=[7]), "network.pool_after must be between 1 and 6, got 7"),
        (lambda: CNN(channels=[]), "the number of network.channels must be at least 1, got 0"),
    ],
)
def test_networks_with_impossible_settings(make: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value) == message


def test_unknown_torchvision_model_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"network.name=resnet19 is unknown; known: alexnet, convnext_base, .*vit_b_16"):
        TorchvisionModel(name="resnet19")


def test_images_the_network_does_not_take() -> None:
    with pytest.raises(UserError, match=r"network: it does not accept images of shape \(1, 28, 28\)"):
        plan_of(TorchvisionModel(name="vgg11_bn", image_size=8))
