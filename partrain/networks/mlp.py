"""Fully connected networks; the default is the paper's six layers."""

import itertools
from collections import OrderedDict
from dataclasses import dataclass
from math import prod

from torch import nn

from partrain import checks
from partrain.networks.nonlinearities import ACTIVATIONS


@dataclass(kw_only=True)
class MLPSettings:
    """`depth` linear layers, the hidden ones `width` wide (or as `widths` says, depth - 1 of them)."""

    kind: str = "mlp"
    depth: int = 6
    width: int = 512
    widths: list[int] | None = None
    activation: str = "relu"
    normalization: str = "none"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.widths is not None:
            self.depth = len(self.widths) + 1
        checks.at_least("network.depth", self.depth, 1)
        for width in self.hidden_widths():
            checks.at_least("network.widths" if self.widths else "network.width", width, 1)
        checks.one_of("network.activation", self.activation, ACTIVATIONS)
        checks.one_of("network.normalization", self.normalization, ("none", "batch", "layer"))
        checks.within("network.dropout", self.dropout, 0.0, 0.99)

    def hidden_widths(self) -> list[int]:
        return list(self.widths) if self.widths is not None else [self.width] * (self.depth - 1)

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """The network for images of `input_shape` (channels, height, width); its output is [batch, `num_classes`]."""
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        widths = [prod(input_shape), *self.hidden_widths(), num_classes]
        for index, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            layers[f"linear{index}"] = nn.Linear(fan_in, fan_out)
            if index == self.depth - 1:
                break
            if self.normalization != "none":
                layers[f"norm{index}"] = (
                    nn.BatchNorm1d(fan_out) if self.normalization == "batch" else nn.LayerNorm(fan_out)
                )
            layers[f"{self.activation}{index}"] = ACTIVATIONS[self.activation]()
            if self.dropout > 0:
                layers[f"dropout{index}"] = nn.Dropout(self.dropout)
        return nn.Sequential(layers)
