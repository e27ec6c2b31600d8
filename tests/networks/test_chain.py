"""Chains: layers, cuts, and segments that together compute exactly the same as the network."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from partrain.errors import UserError
from partrain.networks import CNN, MLP, Chain, CustomNetwork, NetworkSettings, TorchvisionModel
from partrain.networks.deferred import materialise, record_network
from partrain.partition.plan import PartitionSettings, make_plan

IMAGES = (1, 28, 28)

NETWORKS: dict[str, NetworkSettings] = {
    "mlp": MLP(width=32, dropout=0.1, normalization="layer"),
    "cnn": CNN(),
    "resnet18": TorchvisionModel(name="resnet18"),
    "vgg11_bn": TorchvisionModel(name="vgg11_bn"),
    "vit_b_16": TorchvisionModel(name="vit_b_16"),
    "densenet121": TorchvisionModel(name="densenet121"),
    "swin_t": TorchvisionModel(name="swin_t"),
}


def initialised_chain(settings: NetworkSettings) -> Chain:
    """Return the chain of a network with real weights, for 28×28 images and 10 classes."""
    chain = Chain.build(settings, IMAGES, 10)
    materialise(chain.network, chain.tape, 0)
    return chain


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet18", "vit_b_16", "densenet121", "swin_t"])
@pytest.mark.parametrize("before_activation", [False, True])
def test_segments_compute_the_network_and_its_gradients(name: str, *, before_activation: bool) -> None:
    chain = initialised_chain(NETWORKS[name])
    plan = make_plan(
        NETWORKS[name], IMAGES, 10, PartitionSettings(segments=3, before_activation=before_activation), batch_size=8
    )
    edges = [None, *(chain.cut_named(segment.stop) for segment in plan.segments)]
    images = torch.randn(2, *IMAGES, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)  # dropout and stochastic depth
    whole = copy.deepcopy(chain.network)(images)
    values = images
    torch.manual_seed(0)
    segments = [chain.extract_segment(start, stop) for start, stop in itertools.pairwise(edges)]
    for segment in segments:
        values = segment(values)
    assert torch.equal(values, whole)
    names = [key for segment in segments for key in segment.state_dict()]
    assert sorted(names) == sorted(chain.network.state_dict())
    values.square().sum().backward()
    assert all(parameter.grad is not None for parameter in chain.network.parameters())


def test_any_cutting_starts_from_the_same_weights() -> None:
    settings = MLP(width=16)
    whole = initialised_chain(settings).network.state_dict()
    for count in (2, 3, 6):
        plan = make_plan(settings, IMAGES, 10, PartitionSettings(segments=count), batch_size=8)
        for planned in plan.segments:
            chain = Chain.build(settings, IMAGES, 10)
            segment = chain.extract_segment(chain.cut_named(planned.start), chain.cut_named(planned.stop))
            materialise(segment, chain.tape, 0)
            for name, tensor in segment.state_dict().items():
                assert torch.equal(tensor, whole[name]), name
            others = [p for n, p in chain.network.named_parameters() if n not in segment.state_dict()]
            assert all(type(other) is not nn.Parameter for other in others), "a layer of another segment took memory"


def test_layers_of_the_mlp_are_its_linear_layers() -> None:
    chain = Chain.build(MLP(normalization="batch", dropout=0.5), IMAGES, 10)
    assert [layer.name for layer in chain.layers] == [f"linear{index}" for index in range(6)]
    assert chain.cut_after(0).name == "dropout0"
    assert chain.cut_after(0, before_activation=True).name == "norm0"


def test_flattening_stays_to_the_right_of_a_cut() -> None:
    chain = Chain.build(CNN(channels=[8, 16], strides=[1, 2], pool_after=[2]), IMAGES, 10)
    assert chain.cut_after(1).name == "pool1"
    assert chain.cut_after(1, before_activation=True).name == "norm1"


def test_residual_blocks_are_cut_around_not_through() -> None:
    chain = Chain.build(TorchvisionModel(name="resnet18"), IMAGES, 10)
    assert len(chain.layers) == 10
    assert chain.cut_before("model.layer3.0").name == "model_layer2_1_relu_1"
    message = (
        "partition.at: the network cannot be cut before module 'model.layer3.0.conv2', where more than one tensor "
        "crosses (inside a residual block?). Choose 'model.layer3.0.conv1', the nearest layer that it can be cut before."
    )
    with pytest.raises(UserError) as caught:
        chain.cut_before("model.layer3.0.conv2")
    assert str(caught.value) == message


class Branching(nn.Module):
    """A network that branches on the value of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        """Return either the layer's output or the images."""
        return self.linear(images) if images.sum() > 0 else images


class TwoInputs(nn.Module):
    """A network that takes two tensors."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the sum of both tensors."""
        return left + right


class Weightless(nn.Module):
    """A network without weights."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the images plus 1."""
        return images + 1


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Branching, "network: Branching cannot be traced by torch.fx, so it cannot be cut"),
        (TwoInputs, "network: the forward method of TwoInputs takes 2 arguments, expected 1"),
        (Weightless, "network: Weightless has no layer with weights"),
    ],
)
def test_networks_that_cannot_be_cut_say_why(module: type[nn.Module], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Chain(*record_network(module))


class Own(nn.Module):
    """A network as a user may write it, with activations as functions and a weight used by name."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(64, 32)
        self.matrix = nn.Parameter(torch.randn(32, 32) / 6)
        self.last = nn.Linear(32, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores [batch, classes]."""
        hidden = torch.relu(self.first(images.flatten(1)))
        hidden = torch.tanh(hidden @ self.matrix + hidden)
        return self.last(hidden)


def test_a_users_own_module() -> None:
    settings = CustomNetwork(name="tests.networks.test_chain:Own", options={"classes": 5})
    chain = Chain.build(settings, (1, 8, 8), 5)
    assert len(chain.layers) == 3
    assert chain.cut_after(1, before_activation=True).name == "add"
    assert list(chain.extract_segment(chain.cut_after(0), chain.cut_after(1)).state_dict()) == ["matrix"]


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        ("nothing", "network=custom needs network.name=<module>:<callable>, got nothing"),
        ("no_such_module:Net", "network.name=no_such_module:Net: No module named 'no_such_module'"),
        ("tests.networks.test_chain:IMAGES", "'tuple' object is not callable"),
        ("builtins:dict", "network.name=builtins:dict returned an object of type dict. Let it return an nn.Module."),
    ],
)
def test_builders_that_build_nothing(builder: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Chain.build(CustomNetwork(name=builder), (1, 8, 8), 5)
    assert message in str(caught.value)
