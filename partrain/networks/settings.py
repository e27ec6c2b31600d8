"""The base of the settings of a network, which every kind of network defines in a file of its own."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from partrain.options import Option


@dataclass(kw_only=True)
class NetworkSettings(Option):
    """The settings of a network, and how it is built."""

    group: ClassVar[str] = "network"

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Return the network for images of `input_shape`, (channels, height, width). Its output is [batch, classes]."""
        raise NotImplementedError
