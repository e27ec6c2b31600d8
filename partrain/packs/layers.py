"""Layers of several networks computed as one: values are [M, batch, ...] and weights [M, ...], an entry for each of M.

A layer here replaces M modules of the same type and shape, and computes what each of them would from its own entry. Types
that are not listed in `LAYERS` are computed one after another by `OneByOne`, so that a network may hold any module.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from partrain.device import is_cpu
from partrain.networks.nonlinearities import ACTIVATION_MODULES
from partrain.packs.linear import StackedLinear
from partrain.packs.member_modules import MemberModules, StackedLayer
from partrain.packs.member_rngs import MemberRngs


class OneByOne(nn.Module):
    """M modules or functions computed one after another, each with the random numbers of its own training.

    Args:
        calls: The modules or functions, one for each training.
        rngs: The random generators of the trainings.
    """

    def __init__(self, calls: Sequence[Callable[..., Any]], rngs: MemberRngs) -> None:
        super().__init__()
        self.calls, self.rngs = list(calls), rngs

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the results of all calls, with their tensors stacked to [M, ...].

        Each call gets its entries of the tensors [M, ...] among the arguments, and the other arguments as they are.
        """
        results = [self._call(number, args, kwargs) for number in range(len(self.calls))]
        leaves, structures = zip(*(tree_flatten(result) for result in results), strict=True)
        return tree_unflatten([_stack_leaves(same) for same in zip(*leaves, strict=True)], structures[0])

    def _call(self, number: int, args: Any, kwargs: Any) -> Any:
        """Return the result of call `number`."""
        entry_args, entry_kwargs = tree_map(lambda leaf: _entry(leaf, number), (args, kwargs))
        with self.rngs.as_default(number):
            return self.calls[number](*entry_args, **entry_kwargs)


def _entry(leaf: Any, number: int) -> Any:
    """Return entry `number` of a tensor [M, ...], or the argument itself if it is no tensor."""
    return leaf[number] if isinstance(leaf, Tensor) else leaf


def _stack_leaves(leaves: Sequence[Any]) -> Any:
    """Return M tensors stacked to [M, ...], or the first of M results that are no tensors."""
    return torch.stack(list(leaves)) if isinstance(leaves[0], Tensor) else leaves[0]


class Elementwise(StackedLayer):
    """A function without weights that treats every number alike, such as an activation."""

    @staticmethod
    def stacking_key(module: Any) -> tuple[Any, ...]:
        """Return the module's settings as text."""
        return (repr(module),)

    def __init__(self, members: MemberModules) -> None:
        super().__init__(members)
        self.function = members.modules[0]

    def forward(self, values: Tensor) -> Tensor:
        """Return the function of every number of the values [M, batch, ...]."""
        return self.function(values)


class StackedFlatten(StackedLayer):
    """An `nn.Flatten` of the dimensions after M."""

    @staticmethod
    def stacking_key(module: Any) -> tuple[Any, ...]:
        """Return the dimensions that are flattened."""
        return (module.start_dim, module.end_dim)

    def __init__(self, members: MemberModules) -> None:
        super().__init__(members)
        self.start_dim = _after_members(members.modules[0].start_dim)
        self.end_dim = _after_members(members.modules[0].end_dim)

    def forward(self, values: Tensor) -> Tensor:
        """Return the values [M, batch, ...] with the layers' dimensions flattened."""
        return values.flatten(self.start_dim, self.end_dim)


def _after_members(dim: int) -> int:
    """Return the place of a module's dimension `dim` in a tensor with M before it. Negative ones count from the end."""
    return dim + 1 if dim >= 0 else dim


def merge_into_channels(values: Tensor) -> Tensor:
    """Return values [M, batch, channels, ...] as [batch, M · channels, ...], for layers that treat channels apart."""
    return values.transpose(0, 1).flatten(1, 2)


def split_channels(values: Tensor, count: int) -> Tensor:
    """Return values [batch, M · channels, ...] as [M, batch, channels, ...], where M is `count`, without a copy."""
    return values.unflatten(1, (count, -1)).transpose(0, 1)


class StackedConv2d(StackedLayer):
    """M convolutions as one with M times as many groups."""

    @staticmethod
    def stacking_key(module: Any) -> tuple[Any, ...] | None:
        """Return the convolution's settings, or None if it pads with other numbers than zeros."""
        if module.padding_mode != "zeros":
            return None
        return module.stride, module.padding, module.dilation, module.groups

    def __init__(self, members: MemberModules) -> None:
        super().__init__(members)
        self.module = members.modules[0]
        self.count = len(members.modules)
        self.weight, self.bias = members.stack_parameter("weight"), members.stack_parameter("bias")

    def forward(self, values: Tensor) -> Tensor:
        """Return the outputs [M, batch, channels, height, width]."""
        weight, bias = self.weight(), self.bias()
        assert weight is not None
        output = F.conv2d(
            merge_into_channels(values),
            weight.flatten(0, 1),
            None if bias is None else bias.flatten(),
            self.module.stride,
            self.module.padding,
            self.module.dilation,
            self.count * self.module.groups,
        )
        return split_channels(output, self.count)


class StackedBatchNorm(StackedLayer):
    """M batch normalisations as one of M times as many channels."""

    @staticmethod
    def stacking_key(module: Any) -> tuple[Any, ...] | None:
        """Return the normalisation's settings, or None if its momentum depends on the number of batches."""
        if module.momentum is None:
            return None
        return module.eps, module.momentum, module.training

    def __init__(self, members: MemberModules) -> None:
        super().__init__(members)
        self.module = members.modules[0]
        self.count = len(members.modules)
        self.weight, self.bias = members.stack_parameter("weight"), members.stack_parameter("bias")
        self.mean, self.variance = members.stack_buffer("running_mean"), members.stack_buffer("running_var")
        self.num_batches = members.stack_buffer("num_batches_tracked")

    def forward(self, values: Tensor) -> Tensor:
        """Return the normalised values [M, batch, channels, ...], and update the running statistics in training."""
        is_training = self.module.training
        if is_training and self.num_batches is not None:
            self.num_batches.add_(1)
        output = F.batch_norm(
            merge_into_channels(values),
            _flatten(self.mean),
            _flatten(self.variance),
            _flatten(self.weight()),
            _flatten(self.bias()),
            is_training or self.mean is None,
            self.module.momentum,
            self.module.eps,
        )
        return split_channels(output, self.count)


def _flatten(tensor: Tensor | None) -> Tensor | None:
    """Return a tensor [M, channels] as [M · channels], and None as None."""
    return None if tensor is None else tensor.flatten()


class StackedLayerNorm(StackedLayer):
    """M layer normalisations, each with its own weights."""

    @staticmethod
    def stacking_key(module: Any) -> tuple[Any, ...]:
        """Return the normalised shape and epsilon."""
        return (tuple(module.normalized_shape), module.eps)

    def __init__(self, members: MemberModules) -> None:
        super().__init__(members)
        self.module = members.modules[0]
        self.weight, self.bias = members.stack_parameter("weight"), members.stack_parameter("bias")

    def forward(self, values: Tensor) -> Tensor:
        """Return the normalised values [M, batch, ..., *shape], scaled and shifted by each layer's weights."""
        output = F.layer_norm(values, self.module.normalized_shape, None, None, self.module.eps)
        weight, bias = self.weight(), self.bias()
        if weight is not None:
            output = torch.mul(output, _broadcastable(weight, values.ndim))
        if bias is not None:
            output = torch.add(output, _broadcastable(bias, values.ndim))
        return output


def _broadcastable(tensor: Tensor, ndim: int) -> Tensor:
    """Return a tensor [M, *shape] as [M, 1, ..., 1, *shape], with `ndim` dimensions."""
    return tensor.view(len(tensor), *[1] * (ndim - tensor.ndim), *tensor.shape[1:])


class StackedDropout(StackedLayer):
    """M dropout layers, whose masks are those that each training draws alone."""

    @staticmethod
    def stacking_key(module: Any) -> tuple[Any, ...]:
        """Return the dropout probability and whether dropout is on."""
        return (module.p, module.training)

    def __init__(self, members: MemberModules) -> None:
        super().__init__(members)
        self.rngs, self.module = members.rngs, members.modules[0]
        self.one_by_one = OneByOne(members.modules, members.rngs)

    def forward(self, values: Tensor) -> Tensor:
        """Return the values [M, batch, ...], some of them zero and the others scaled up."""
        if not is_cpu(values.device):  # PyTorch draws the mask within its kernel there.
            return self.one_by_one(values)
        if not self.module.training or self.module.p == 0:
            return values
        mask = torch.empty_like(values, memory_format=torch.contiguous_format)
        for member_mask, generator in zip(mask, self.rngs.generators, strict=True):
            member_mask.bernoulli_(1 - self.module.p, generator=generator)
        return values * mask.div_(1 - self.module.p)


class StackedPool(StackedLayer):
    """M poolings over height and width as one of M times as many channels."""

    @staticmethod
    def stacking_key(module: Any) -> tuple[Any, ...]:
        """Return the module's settings as text."""
        return (repr(module),)

    def __init__(self, members: MemberModules) -> None:
        super().__init__(members)
        self.pool, self.count = members.modules[0], len(members.modules)

    def forward(self, values: Tensor) -> Tensor:
        """Return the pooled values [M, batch, channels, height, width]."""
        return split_channels(self.pool(merge_into_channels(values)), self.count)


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
"""The stacked layer of each type of module that has one."""
