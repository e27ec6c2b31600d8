"""Layers of several networks computed as one: values are [M, batch, ...], weights [M, ...], one entry for each of M.

A layer here stands for M modules of the same type and shape and computes what each of them would of its own entry. Types
that are not listed in `LAYERS` are computed one after another (`Each`), so that any module can be part of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from partrain.networks.nonlinearities import ACTIVATION_MODULES
from partrain.packs.linear import StackedLinear
from partrain.packs.member_modules import MemberModules, StackedLayer
from partrain.packs.member_rngs import MemberRngs


class Each(nn.Module):
    """M modules or functions, one after another, each with the random numbers of its own training."""

    def __init__(self, calls: Sequence[Callable[..., Any]], streams: MemberRngs) -> None:
        super().__init__()
        self.calls, self.streams = list(calls), streams

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        results = []
        for number, call in enumerate(self.calls):
            own_args, own_kwargs = tree_map(lambda leaf: _entry(leaf, number), (args, kwargs))  # noqa: B023 (called now)
            with self.streams.standing_in(number):
                results.append(call(*own_args, **own_kwargs))
        leaves, structure = zip(*(tree_flatten(result) for result in results), strict=True)
        return tree_unflatten([_together(same) for same in zip(*leaves, strict=True)], structure[0])


def _entry(leaf: Any, number: int) -> Any:
    return leaf[number] if isinstance(leaf, Tensor) else leaf


def _together(leaves: Sequence[Any]) -> Any:
    return torch.stack(list(leaves)) if isinstance(leaves[0], Tensor) else leaves[0]


class Elementwise(StackedLayer):
    """A function without weights that treats every number alike, such as an activation."""

    @staticmethod
    def key(module: Any) -> tuple[Any, ...]:
        return (repr(module),)

    def __init__(self, parts: MemberModules) -> None:
        super().__init__(parts)
        self.function = parts.modules[0]

    def forward(self, values: Tensor) -> Tensor:
        return self.function(values)


class StackedFlatten(StackedLayer):
    """`nn.Flatten` of what follows M."""

    @staticmethod
    def key(module: Any) -> tuple[Any, ...]:
        return (module.start_dim, module.end_dim)

    def __init__(self, parts: MemberModules) -> None:
        super().__init__(parts)
        first, last = parts.modules[0].start_dim, parts.modules[0].end_dim
        self.first, self.last = (place + 1 if place >= 0 else place for place in (first, last))

    def forward(self, values: Tensor) -> Tensor:
        return values.flatten(self.first, self.last)


def channels_together(values: Tensor) -> Tensor:
    """[M, batch, channels, ...] -> [batch, M · channels, ...]: what works by channels does not know of M."""
    return values.transpose(0, 1).flatten(1, 2)


def channels_apart(values: Tensor, count: int) -> Tensor:
    """Back again, without a copy."""
    return values.unflatten(1, (count, -1)).transpose(0, 1)


class StackedConv2d(StackedLayer):
    """Convolutions as one with M times the groups."""

    @staticmethod
    def key(module: Any) -> tuple[Any, ...] | None:
        if module.padding_mode != "zeros":
            return None
        return module.stride, module.padding, module.dilation, module.groups

    def __init__(self, parts: MemberModules) -> None:
        super().__init__(parts)
        self.one = parts.modules[0]
        self.count = len(parts.modules)
        self.weight, self.bias = parts.parameter("weight"), parts.parameter("bias")

    def forward(self, values: Tensor) -> Tensor:
        weight, bias = self.weight(), self.bias()
        assert weight is not None
        output = F.conv2d(
            channels_together(values),
            weight.flatten(0, 1),
            None if bias is None else bias.flatten(),
            self.one.stride,
            self.one.padding,
            self.one.dilation,
            self.count * self.one.groups,
        )
        return channels_apart(output, self.count)


class StackedBatchNorm(StackedLayer):
    """Batch normalisation by channels, of which there are M times as many."""

    @staticmethod
    def key(module: Any) -> tuple[Any, ...] | None:
        if module.momentum is None:
            return None
        return module.eps, module.momentum, module.training

    def __init__(self, parts: MemberModules) -> None:
        super().__init__(parts)
        self.one = parts.modules[0]
        self.count = len(parts.modules)
        self.weight, self.bias = parts.parameter("weight"), parts.parameter("bias")
        self.mean, self.variance = parts.buffer("running_mean"), parts.buffer("running_var")
        self.batches = parts.buffer("num_batches_tracked")

    def forward(self, values: Tensor) -> Tensor:
        training = self.one.training
        if training and self.batches is not None:
            self.batches.add_(1)
        weight, bias, mean, variance = (
            None if tensor is None else tensor.flatten()
            for tensor in (self.weight(), self.bias(), self.mean, self.variance)
        )
        output = F.batch_norm(
            channels_together(values),
            mean,
            variance,
            weight,
            bias,
            training or mean is None,
            self.one.momentum,
            self.one.eps,
        )
        return channels_apart(output, self.count)


class StackedLayerNorm(StackedLayer):
    """Layer normalisation, with weights of each."""

    @staticmethod
    def key(module: Any) -> tuple[Any, ...]:
        return (tuple(module.normalized_shape), module.eps)

    def __init__(self, parts: MemberModules) -> None:
        super().__init__(parts)
        self.one = parts.modules[0]
        self.weight, self.bias = parts.parameter("weight"), parts.parameter("bias")

    def forward(self, values: Tensor) -> Tensor:
        output = F.layer_norm(values, self.one.normalized_shape, None, None, self.one.eps)
        for operation, tensor in ((torch.mul, self.weight()), (torch.add, self.bias())):
            if tensor is not None:
                between = values.ndim - tensor.ndim
                output = operation(output, tensor.view(len(tensor), *[1] * between, *tensor.shape[1:]))
        return output


class StackedDropout(StackedLayer):
    """Dropout whose masks are those of each training alone."""

    @staticmethod
    def key(module: Any) -> tuple[Any, ...]:
        return (module.p, module.training)

    def __init__(self, parts: MemberModules) -> None:
        super().__init__(parts)
        self.streams, self.one = parts.streams, parts.modules[0]
        self.calls = Each(parts.modules, parts.streams)

    def forward(self, values: Tensor) -> Tensor:
        if values.device.type != "cpu":  # elsewhere the mask is drawn inside of torch's kernel
            return self.calls(values)
        if not self.one.training or self.one.p == 0:
            return values
        mask = torch.empty_like(values, memory_format=torch.contiguous_format)
        for own, generator in zip(mask, self.streams.generators, strict=True):
            own.bernoulli_(1 - self.one.p, generator=generator)
        return values * mask.div_(1 - self.one.p)


class StackedPool(StackedLayer):
    """Pooling over height and width, channel by channel."""

    @staticmethod
    def key(module: Any) -> tuple[Any, ...]:
        return (repr(module),)

    def __init__(self, parts: MemberModules) -> None:
        super().__init__(parts)
        self.pool, self.count = parts.modules[0], len(parts.modules)

    def forward(self, values: Tensor) -> Tensor:
        return channels_apart(self.pool(channels_together(values)), self.count)


LAYERS: dict[type[nn.Module], type[StackedLayer]] = {
    nn.Linear: StackedLinear,
    nn.Conv2d: StackedConv2d,
    nn.BatchNorm1d: StackedBatchNorm,
    nn.BatchNorm2d: StackedBatchNorm,
    nn.LayerNorm: StackedLayerNorm,
    nn.Dropout: StackedDropout,
    nn.Flatten: StackedFlatten,
    nn.MaxPool2d: StackedPool,
    nn.AvgPool2d: StackedPool,
    nn.AdaptiveAvgPool2d: StackedPool,
    nn.Identity: Elementwise,
    **{activation: Elementwise for activation in ACTIVATION_MODULES if activation is not nn.PReLU},
}
