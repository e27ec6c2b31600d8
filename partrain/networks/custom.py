"""A user's own `nn.Module`, by the name of the function or class that builds it."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from partrain import checks
from partrain.errors import UserError


@dataclass(kw_only=True)
class CustomSettings:
    """The settings of a network of the user's own."""

    kind: str = "custom"
    """The kind of the network: custom."""
    builder: str = ""
    """The function or class that builds the network, as module:callable, which every training process imports."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for the builder, such as network.options.width=256. By default none."""

    def __post_init__(self) -> None:
        if ":" not in self.builder:
            raise UserError(f"network=custom needs network.builder=<module>:<callable>, got {self.builder or 'none'}")

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """What the builder returns; images of `input_shape` (channels, height, width) go in, class scores come out."""
        try:
            network = checks.imported("network.builder", self.builder)(**self.options)
        except TypeError as error:
            raise UserError(f"network.builder={self.builder} with network.options={self.options}: {error}") from None
        if not isinstance(network, nn.Module):
            raise UserError(f"network.builder={self.builder} must return an nn.Module, got {type(network).__name__}")
        return network
