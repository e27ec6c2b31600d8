"""Small convolutional networks: blocks of convolution, normalisation and activation, then linear layers.

The first three convolutions of the default shrink the image. So every output of its first half depends on the whole
image; an earlier cut would train outputs for a class that no single value can tell.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from torch import nn

from partrain import checks
from partrain.errors import UserError
from partrain.networks.nonlinearities import ACTIVATIONS
from partrain.networks.settings import NetworkSettings


@dataclass(kw_only=True)
class CNN(NetworkSettings):
    """The settings of a small convolutional network: blocks of 3×3 convolutions, then linear layers."""

    name: str = "cnn"
    """The network: cnn."""
    channels: list[int] = field(default_factory=lambda: [32, 64, 128, 128, 128, 128])
    """Output channels of each convolution, 1 or more. By default 32, 64, 128, 128, 128 and 128."""
    strides: list[int] = field(default_factory=lambda: [2, 2, 2, 1, 1, 1])
    """Stride of each convolution, 1 or more; an empty list is 1 for all. By default 2, 2, 2, 1, 1 and 1."""
    pool_after: list[int] = field(default_factory=list)
    """Numbers of the convolutions, from 1, that 2×2 max-pooling follows. By default none."""
    hidden: list[int] = field(default_factory=lambda: [128])
    """Units of each hidden linear layer after the convolutions, 1 or more. By default one layer of 128."""
    activation: str = "relu"
    """The activation function after every hidden layer: relu, gelu, silu, tanh or leaky_relu."""
    normalization: str = "batch"
    """The normalisation after every convolution: none or batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least("the number of network.channels", len(self.channels), 1)
        for width in self.channels:
            checks.at_least("network.channels", width, 1)
        for width in self.hidden:
            checks.at_least("network.hidden", width, 1)
        self.strides = list(self.strides) or [1] * len(self.channels)
        if len(self.strides) != len(self.channels):
            raise UserError(
                f"network.strides={list(self.strides)} has {len(self.strides)} values, but network.channels="
                f"{list(self.channels)} {len(self.channels)}. Give one stride for each convolution."
            )
        for stride in self.strides:
            checks.at_least("network.strides", stride, 1)
        for block in self.pool_after:
            checks.within("network.pool_after", block, 1, len(self.channels))
        checks.one_of("network.activation", self.activation, ACTIVATIONS)
        checks.one_of("network.normalization", self.normalization, ("none", "batch"))

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Return the network for images of `input_shape`, (channels, height, width). Its output is [batch, classes]."""
        layers, num_features = self._convolutional_layers(input_shape)
        layers["flatten"] = nn.Flatten()
        for index, width in enumerate(self.hidden, start=len(self.channels)):
            layers[f"linear{index}"] = nn.Linear(num_features, width)
            layers[f"{self.activation}{index}"] = ACTIVATIONS[self.activation]()
            num_features = width
        layers["classifier"] = nn.Linear(num_features, num_classes)
        return nn.Sequential(layers)

    def _convolutional_layers(self, input_shape: tuple[int, ...]) -> tuple[OrderedDict[str, nn.Module], int]:
        """Return the blocks of convolutions by name, and the number of values in the feature map after them."""
        channels, height, width = input_shape
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        bias = self.normalization == "none"
        for block, (out_channels, stride) in enumerate(zip(self.channels, self.strides, strict=True)):
            layers[f"conv{block}"] = nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=bias)
            height, width = -(-height // stride), -(-width // stride)  # rounded up
            if self.normalization == "batch":
                layers[f"norm{block}"] = nn.BatchNorm2d(out_channels)
            layers[f"{self.activation}{block}"] = ACTIVATIONS[self.activation]()
            if block + 1 in self.pool_after:
                layers[f"pool{block}"] = nn.MaxPool2d(2)
                height, width = height // 2, width // 2
            channels = out_channels
        if min(height, width) < 1:
            size = "×".join(map(str, input_shape[1:]))
            raise UserError(
                f"network.pool_after={self.pool_after} leaves nothing of images of {size}. Pool less often."
            )
        return layers, channels * height * width
