"""Networks of the user's own, named by the function or class that builds them."""

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
        """Return the module that the user's builder makes. It receives the options alone, not these arguments.

        Args:
            input_shape: Shape of an image, (channels, height, width), which the module must accept in batches.
            num_classes: Number of values that the module must return for each image.

        Raises:
            UserError: If the builder cannot be imported or called, or returns something else.
        """
        build_network = checks.import_object("network.builder", self.builder)
        try:
            network = build_network(**self.options)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"network.builder={self.builder} failed with network.options={self.options} ({error}). "
                "Correct the builder or the options."
            ) from None
        if not isinstance(network, nn.Module):
            raise UserError(
                f"network.builder={self.builder} returned an object of type {type(network).__name__}. "
                "Let it return an nn.Module."
            )
        return network
