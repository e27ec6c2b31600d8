"""Recorded networks: the initialisation is the constructor's own, and depends on (seed, name) alone."""

import pytest
import torch
import torchvision
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from partrain.errors import UserError
from partrain.networks.deferred import materialise, record_network
from partrain.rng import derive_seed


class Oddities(nn.Module):
    """A module with initialisers of many kinds, a view, a derived buffer and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.normal = nn.Parameter(torch.empty(64, 64).normal_(std=0.02))
        self.truncated = nn.Parameter(torch.zeros(64, 64))
        nn.init.trunc_normal_(self.truncated, std=0.5)
        self.orthogonal = nn.Parameter(torch.empty(16, 16))
        nn.init.orthogonal_(self.orthogonal)
        self.register_buffer("steps", torch.arange(4).repeat(2) + 1, persistent=False)
        self.register_buffer("constant", torch.tensor([0.25, 0.5]))
        self.view = nn.Parameter(torch.full((4, 4), 3.0).t()[1:])


def materialised(seed: int) -> nn.Module:
    """Return an `Oddities` that was recorded and then made real."""
    network, tape = record_network(Oddities)
    assert all(isinstance(parameter, FakeTensor) for parameter in network.parameters())
    materialise(network, tape, seed)
    return network


def test_initialisers_give_what_they_give_for_real() -> None:
    network = materialised(seed=0)
    assert network.steps.tolist() == [1, 2, 3, 4, 1, 2, 3, 4]
    assert network.constant.tolist() == [0.25, 0.5]
    assert network.view.shape == (3, 4)
    assert (network.view == 3).all()
    torch.testing.assert_close(network.orthogonal @ network.orthogonal.T, torch.eye(16), atol=1e-5, rtol=0)
    assert 0.018 < network.normal.std() < 0.022
    assert 0.47 < network.truncated.std() < 0.53
    torch.manual_seed(derive_seed(0, "initial", "normal"))
    assert torch.equal(network.normal, torch.empty(64, 64).normal_(std=0.02))


def test_same_seed_same_weights_other_seed_other_weights() -> None:
    first, again, other = materialised(0).state_dict(), materialised(0).state_dict(), materialised(1).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["normal"], other["normal"])


def test_recording_leaves_torchs_initialisers_as_they_were() -> None:
    before = nn.init.kaiming_uniform_
    record_network(lambda: nn.Linear(2, 2))
    assert nn.init.kaiming_uniform_ is before
    assert torch.equal(nn.init.ones_(torch.zeros(2)), torch.ones(2))


def test_global_random_state_is_not_touched() -> None:
    network, tape = record_network(lambda: nn.Linear(2, 2))
    state = torch.get_rng_state()
    materialise(network, tape, 0)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "vit_b_16"])
def test_torchvision_models_start_as_torchvision_starts_them(name: str) -> None:
    network, tape = record_network(lambda: torchvision.models.get_model(name, num_classes=10))
    module = nn.Sequential(*list(network.children())[:2])
    del network
    materialise(module, tape, 0)
    real = nn.Sequential(*list(torchvision.models.get_model(name, num_classes=10).children())[:2])
    for (key, ours), theirs in zip(module.state_dict().items(), real.state_dict().values(), strict=True):
        spread, expected = ours.float().std(correction=0), theirs.float().std(correction=0)
        assert torch.isclose(spread, expected, rtol=0.25, atol=1e-6), key


def test_constructor_that_looks_at_values_is_refused() -> None:
    def build() -> nn.Module:
        return nn.Linear(2, 2) if torch.rand(1).item() > 0.5 else nn.Linear(3, 3)

    with pytest.raises(UserError, match="network: its constructor reads the value of a tensor"):
        record_network(build)
