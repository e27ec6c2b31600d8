"""Small convolutional networks: blocks of convolution, normalisation and activation, then dense layers."""

from collections import OrderedDict
from dataclasses import dataclass, field

from torch import nn

from partrain import checks
from partrain.networks.layers import ACTIVATIONS


@dataclass(kw_only=True)
class CNNSettings:
    """3×3 convolutions of `channels`; 2×2 max-pooling after the blocks (from 1) that `pool_after` names."""

    kind: str = "cnn"
    channels: list[int] = field(default_factory=lambda: [32, 32, 64, 64])
    pool_after: list[int] = field(default_factory=lambda: [2, 4])
    hidden: list[int] = field(default_factory=lambda: [128])
    activation: str = "relu"
    normalization: str = "batch"

    def __post_init__(self) -> None:
        checks.at_least("the number of network.channels", len(self.channels), 1)
        for width in self.channels:
            checks.at_least("network.channels", width, 1)
        for width in self.hidden:
            checks.at_least("network.hidden", width, 1)
        for block in self.pool_after:
            checks.within("network.pool_after", block, 1, len(self.channels))
        checks.one_of("network.activation", self.activation, ACTIVATIONS)
        checks.one_of("network.normalization", self.normalization, ("none", "batch"))

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """The network for images of `input_shape` (channels, height, width); its output is [batch, `num_classes`]."""
        channels, height, width = input_shape
        shrink = 2 ** len(self.pool_after)
        if min(height, width) < shrink:
            raise ValueError(f"network.pool_after={self.pool_after} leaves nothing of images of {height}×{width}")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for block, width_out in enumerate(self.channels):
            layers[f"conv{block}"] = nn.Conv2d(channels, width_out, 3, padding=1, bias=self.normalization == "none")
            if self.normalization == "batch":
                layers[f"norm{block}"] = nn.BatchNorm2d(width_out)
            layers[f"{self.activation}{block}"] = ACTIVATIONS[self.activation]()
            if block + 1 in self.pool_after:
                layers[f"pool{block}"] = nn.MaxPool2d(2)
            channels = width_out
        layers["flatten"] = nn.Flatten()
        features = channels * (height // shrink) * (width // shrink)
        for index, width_out in enumerate(self.hidden, start=len(self.channels)):
            layers[f"linear{index}"] = nn.Linear(features, width_out)
            layers[f"{self.activation}{index}"] = ACTIVATIONS[self.activation]()
            features = width_out
        layers["classifier"] = nn.Linear(features, num_classes)
        return nn.Sequential(layers)
