"""The layer that most of the time goes into: M linear layers as batched matrix products.

A function of its own for the backward pass writes the gradients where the optimiser reads them; autograd would make them
elsewhere first and add them to zeros.
"""

from typing import Any

import torch
from torch import Tensor

from partrain.packs.member_modules import MemberModules, StackedLayer
from partrain.packs.stacked_parameters import Stacked


class StackedLinear(StackedLayer):
    """M linear layers: values [M, batch, ..., in] -> [M, batch, ..., out], in autocast's precision where that is on."""

    @staticmethod
    def key(module: Any) -> tuple[Any, ...] | None:
        """Its shape is its weights'; frozen layers are rare enough to be computed one by one."""
        frozen = not all(parameter.requires_grad for parameter in module.parameters())
        return None if frozen else (module.bias is not None,)

    def __init__(self, parts: MemberModules) -> None:
        super().__init__(parts)
        one = parts.modules[0]
        self.weight = parts.rows.stacked(one.weight)
        self.bias = None if one.bias is None else parts.rows.stacked(one.bias)

    def forward(self, values: Tensor) -> Tensor:
        flat = values.flatten(1, -2) if values.ndim > 3 else values
        shared = flat.stride(0) == 0 and not flat.requires_grad
        product = _SharedProduct if shared else _Product
        output: Tensor = product.apply(self.weight.anchor, flat[0] if shared else flat, self.weight, self.bias)
        return output.unflatten(1, values.shape[1:-1]) if values.ndim > 3 else output


class _Product(torch.autograd.Function):
    """values [M, batch, in] -> [M, batch, out]"""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, values: Tensor, weight: Stacked, bias: Stacked | None) -> Tensor:
        ctx.weight, ctx.bias, ctx.came_as = weight, bias, values.dtype
        values = values.to(weight.computed.dtype)
        ctx.save_for_backward(values)
        output = torch.bmm(values, weight.computed.transpose(1, 2))
        return output if bias is None else output.add_(bias.computed.unsqueeze(1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (output,) = gradients
        (values,) = ctx.saved_tensors
        _put(torch.bmm, output.transpose(1, 2), values, ctx.weight.gradients)
        _put_bias(ctx.bias, output)
        back = torch.bmm(output, ctx.weight.computed).to(ctx.came_as) if ctx.needs_input_grad[1] else None
        return None, back, None, None


class _SharedProduct(torch.autograd.Function):
    """values [batch, in] that all M have in common -> [M, batch, out]: one product with all weights at once."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, values: Tensor, weight: Stacked, bias: Stacked | None) -> Tensor:
        ctx.weight, ctx.bias = weight, bias
        values = values.to(weight.computed.dtype)
        ctx.save_for_backward(values)
        count, size, _ = weight.computed.shape
        output = torch.mm(weight.computed.flatten(0, 1), values.t()).view(count, size, len(values)).transpose(1, 2)
        if bias is None:
            return output.contiguous()
        return torch.add(output, bias.computed.unsqueeze(1), out=output.new_empty(output.shape))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (output,) = gradients
        (values,) = ctx.saved_tensors
        _put(torch.mm, output.transpose(1, 2).flatten(0, 1), values, ctx.weight.gradients)
        _put_bias(ctx.bias, output)
        return None, None, None, None


def _put(product: Any, left: Tensor, right: Tensor, kept: Tensor) -> None:
    """The product of `left` and `right`, into `kept`, where the optimiser reads it, of another shape or type perhaps."""
    shape = (*left.shape[:-1], right.shape[-1])
    if kept.is_contiguous() and kept.dtype == left.dtype:
        product(left, right, out=kept.view(shape))
    else:
        kept.copy_(product(left, right).view(kept.shape))


def _put_bias(bias: Stacked | None, output: Tensor) -> None:
    """The gradients of biases, from those of the outputs."""
    if bias is not None:
        torch.sum(output, 1, dtype=bias.gradients.dtype, out=bias.gradients)
