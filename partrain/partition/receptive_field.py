"""Receptive fields: how much of an image a value in a network depends on.

A segment that ends where values see little of the image cannot be trained towards a class, so plans warn of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx, nn

from partrain.networks import Chain

_WINDOW_MODULES = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
_GLOBAL_MODULES = (nn.Linear, nn.MultiheadAttention, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


@dataclass(frozen=True)
class _ReceptiveField:
    """The receptive field of a value.

    Attributes:
        size: Pixels along a side of the image that the value depends on.
        jump: Pixels between the fields of neighbouring values.
    """

    size: float
    jump: float


def receptive_fields(chain: Chain, image_shape: Sequence[int]) -> dict[str, int]:
    """Return the receptive field of each node's values, in pixels along a side of the image, by the node's name.

    Convolution and pooling widen the field by their windows. Linear layers, attention and adaptive pooling make it the
    whole image. Any other operation leaves it as it is.

    Args:
        chain: The network.
        image_shape: Shape of an image: (channels, height, width). No field is larger than its shorter side.
    """
    side = min(image_shape[-2:])
    fields: dict[fx.Node, _ReceptiveField] = {chain.input: _ReceptiveField(1, 1)}
    for node in chain.nodes:
        sources = [fields[source] for source in node.all_input_nodes if source in fields]
        widest = max(sources, key=lambda source: source.size, default=_ReceptiveField(1, 1))
        module = chain.network.get_submodule(str(node.target)) if node.op == "call_module" else None
        fields[node] = _after_module(widest, module)
    return {node.name: int(min(field.size, side)) for node, field in fields.items()}


def _after_module(field: _ReceptiveField, module: nn.Module | None) -> _ReceptiveField:
    """Return the receptive field of a module's output, given its input's. None is an operation without a module.

    A window of k values with dilation d and stride s makes size += (k - 1) * d * jump, and then jump *= s.
    """
    if isinstance(module, _GLOBAL_MODULES):
        return _ReceptiveField(float("inf"), field.jump)
    if not isinstance(module, _WINDOW_MODULES):
        return field
    kernel, stride, dilation = (_larger(getattr(module, name, 1)) for name in ("kernel_size", "stride", "dilation"))
    return _ReceptiveField(field.size + (kernel - 1) * dilation * field.jump, field.jump * stride)


def _larger(setting: int | tuple[int, ...]) -> int:
    """Return the larger of a module's two settings for height and width, or the one for both."""
    return setting if isinstance(setting, int) else max(setting)
