"""Fully connected networks. The default is the six layers of the paper (arXiv 2403.11204)."""

import itertools
from collections import OrderedDict
from dataclasses import dataclass
from math import prod

from torch import nn

from partrain import checks
from partrain.networks.nonlinearities import ACTIVATIONS
from partrain.networks.settings import NetworkSettings


@dataclass(kw_only=True)
class MLP(NetworkSettings):
    """The settings of a fully connected network. The default is the paper's six layers."""

    name: str = "mlp"
    """The network: mlp."""
    depth: int = 6
    """Number of linear layers, 1 or more."""
    width: int = 512
    """Units of every hidden layer, 1 or more."""
    widths: list[int] | None = None
    """Units of each hidden layer, 1 or more, in place of depth and width. By default every hidden layer has
    network.width."""
    activation: str = "relu"
    """The activation function after every hidden layer: relu, gelu, silu, tanh or leaky_relu."""
    normalization: str = "none"
    """The normalisation after every hidden layer: none, batch or layer."""
    dropout: float = 0.0
    """Probability, from 0 to 0.99, with which dropout sets a hidden unit to zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.widths is not None:
            self.depth = len(self.widths) + 1
        checks.at_least("network.depth", self.depth, 1)
        for width in self.hidden_widths():
            checks.at_least("network.widths" if self.widths else "network.width", width, 1)
        checks.one_of("network.activation", self.activation, ACTIVATIONS)
        checks.one_of("network.normalization", self.normalization, ("none", "batch", "layer"))
        checks.within("network.dropout", self.dropout, 0.0, 0.99)

    def hidden_widths(self) -> list[int]:
        """Return the number of units in each hidden layer."""
        return list(self.widths) if self.widths is not None else [self.width] * (self.depth - 1)

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Return the network for images of `input_shape`, (channels, height, width). Its output is [batch, classes]."""
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        widths = [prod(input_shape), *self.hidden_widths(), num_classes]
        for index, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            layers[f"linear{index}"] = nn.Linear(fan_in, fan_out)
            if index < self.depth - 1:
                layers.update(self._after_hidden_layer(index, fan_out))
        return nn.Sequential(layers)

    def _after_hidden_layer(self, index: int, width: int) -> dict[str, nn.Module]:
        """Return the modules that follow hidden layer `index`, with `width` units, by name and in order."""
        modules: dict[str, nn.Module] = {}
        if self.normalization == "batch":
            modules[f"norm{index}"] = nn.BatchNorm1d(width)
        elif self.normalization == "layer":
            modules[f"norm{index}"] = nn.LayerNorm(width)
        modules[f"{self.activation}{index}"] = ACTIVATIONS[self.activation]()
        if self.dropout > 0:
            modules[f"dropout{index}"] = nn.Dropout(self.dropout)
        return modules
