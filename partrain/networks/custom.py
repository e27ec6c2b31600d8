"""Networks of the user's own, named by the function or class that builds them."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from partrain import checks
from partrain.errors import UserError
from partrain.networks.settings import NetworkSettings


@dataclass(kw_only=True)
class CustomNetwork(NetworkSettings):
    """The settings of a network of the user's own."""

    is_family: ClassVar[bool] = True

    name: str = ""
    """The function or class that builds the network, as module:callable, which every training process imports."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for the builder, such as network.options.width=256. By default none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if ":" not in self.name:
            raise UserError(f"network=custom needs network.name=<module>:<callable>, got {self.name or 'none'}")

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Return the module that the user's builder makes. It receives the options alone, not these arguments.

        Args:
            input_shape: Shape of an image, (channels, height, width), which the module must accept in batches.
            num_classes: Number of values that the module must return for each image.

        Raises:
            UserError: If the builder cannot be imported or called, or returns something else.
        """
        network = checks.make_object("network", self.name, self.options)
        if not isinstance(network, nn.Module):
            raise UserError(
                f"network.name={self.name} returned an object of type {type(network).__name__}. "
                "Let it return an nn.Module."
            )
        return network
