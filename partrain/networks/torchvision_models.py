"""Torchvision's classification models, adapted to images of any size with one or three channels.

torchvision is imported only where it is used, since its import takes a second that runs of other networks can save.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from partrain import checks
from partrain.errors import UserError
from partrain.networks.settings import NetworkSettings


@dataclass(kw_only=True)
class TorchvisionModel(NetworkSettings):
    """The settings of one of torchvision's classification models."""

    is_family: ClassVar[bool] = True

    name: str = "resnet18"
    """The model, by its name in torchvision.models.list_models()."""
    image_size: int = 32
    """Side of the images that the model is given, in pixels, 1 or more; other images are scaled to it."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for the model's builder, such as network.options.dropout=0.2. By default none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        import torchvision

        checks.one_of("network.name", self.name, torchvision.models.list_models(module=torchvision.models))
        checks.at_least("network.image_size", self.image_size, 1)

    @classmethod
    def has_member(cls, name: str) -> bool:
        """Return whether `name` is that of one of torchvision's models."""
        if not name.isidentifier():  # Importing torchvision takes a second.
            return False
        import torchvision

        return name in torchvision.models.list_models(module=torchvision.models)

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Return the network for images of `input_shape`, (channels, height, width). Its output is [batch, classes]."""
        import torchvision

        options = dict(self.options)
        if self.name.startswith("vit_"):
            options.setdefault("image_size", self.image_size)
        if self.name in ("googlenet", "inception_v3"):
            options.setdefault("aux_logits", False)
            options.setdefault("init_weights", False)
        try:
            model = torchvision.models.get_model(self.name, weights=None, num_classes=num_classes, **options)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"network.options={self.options} do not fit {self.name} ({error}). Correct the options."
            ) from None
        return AdaptedModel(model, input_shape, self.image_size)


class AdaptedModel(nn.Module):
    """A model for images of 3 channels and a fixed size, adapted to images of another shape.

    Args:
        model: The model.
        input_shape: Shape of the images that are passed: (1 or 3 channels, height, width).
        image_size: Height and width that the model expects.

    Raises:
        UserError: If the images have another number of channels.
    """

    def __init__(self, model: nn.Module, input_shape: tuple[int, ...], image_size: int) -> None:
        super().__init__()
        channels, height, width = input_shape
        if channels not in (1, 3):
            raise UserError(
                f"network=torchvision accepts images of 1 or 3 channels, and these have {channels}. "
                "Choose another network."
            )
        self.model = model
        self.is_grey = channels == 1
        self.scaled_size = None if (height, width) == (image_size, image_size) else (image_size, image_size)

    def forward(self, images: Tensor) -> Tensor:
        """Return the model's output [batch, classes] for images [batch, channels, height, width]."""
        if self.scaled_size is not None:
            images = F.interpolate(images, self.scaled_size, mode="bilinear", align_corners=False, antialias=False)
        if self.is_grey:
            images = images.expand(-1, 3, -1, -1)
        return self.model(images)
