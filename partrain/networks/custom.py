"""A user's own `nn.Module`, by the name of the function or class that builds it."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from partrain import checks
from partrain.errors import UserError


@dataclass(kw_only=True)
class CustomSettings:
    """`builder`: "module:callable", called with `options`; every segment's process imports it anew."""

    kind: str = "custom"
    builder: str = ""
    options: dict[str, Any] = field(default_factory=dict)

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
