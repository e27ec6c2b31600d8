"""How much of an image a value in a network can depend on: what is cut off too early cannot know a class."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx, nn

from partrain.networks import Chain

_WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
_EVERYWHERE = (nn.Linear, nn.MultiheadAttention, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


@dataclass(frozen=True)
class _Field:
    size: float  # pixels along a side
    jump: float  # pixels between neighbouring values


def receptive_fields(chain: Chain, image_shape: Sequence[int]) -> dict[str, int]:
    """Pixels along a side of the image that a value of each node can depend on, by node name; at most the whole side.

    Windows (convolution, pooling) are followed, whatever else mixes places counts as the whole image, and so does a
    linear layer on a flattened map. On a vector or an image already mixed everywhere nothing changes.
    """
    side = min(image_shape[-2:])
    fields: dict[fx.Node, _Field] = {chain.input: _Field(1, 1)}
    for node in chain.nodes:
        sources = [fields[source] for source in node.all_input_nodes if source in fields]
        field = max(sources, key=lambda source: source.size, default=_Field(1, 1))
        module = chain.network.get_submodule(str(node.target)) if node.op == "call_module" else None
        fields[node] = _behind(field, module)
    return {node.name: int(min(field.size, side)) for node, field in fields.items()}


def _behind(field: _Field, module: nn.Module | None) -> _Field:
    if isinstance(module, _EVERYWHERE):
        return _Field(float("inf"), field.jump)
    if not isinstance(module, _WINDOWS):
        return field
    kernel, stride, dilation = (_widest(getattr(module, name, 1)) for name in ("kernel_size", "stride", "dilation"))
    return _Field(field.size + (kernel - 1) * dilation * field.jump, field.jump * stride)


def _widest(setting: int | tuple[int, ...]) -> int:
    return setting if isinstance(setting, int) else max(setting)
