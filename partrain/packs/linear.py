"""M linear layers as batched matrix products. They take most of a stack's time.

Their backward pass is written out here, since it writes the gradients where the optimiser reads them. Autograd would
compute them elsewhere first, and add them to zeros.
"""

from typing import Any

import torch
from torch import Tensor

from partrain.packs.member_modules import MemberModules, StackedLayer
from partrain.packs.stacked_parameters import StackedParameter


class StackedLinear(StackedLayer):
    """M linear layers: values [M, batch, ..., in] -> [M, batch, ..., out], in autocast's precision where that is on."""

    @staticmethod
    def stacking_key(module: Any) -> tuple[Any, ...] | None:
        """Return whether the layer has a bias, or None for a frozen layer, which is computed apart from others."""
        is_frozen = not all(parameter.requires_grad for parameter in module.parameters())
        return None if is_frozen else (module.bias is not None,)

    def __init__(self, members: MemberModules) -> None:
        super().__init__(members)
        first = members.modules[0]
        self.weight = members.parameters.stacked(first.weight)
        self.bias = None if first.bias is None else members.parameters.stacked(first.bias)

    def forward(self, values: Tensor) -> Tensor:
        """Return the layers' outputs [M, batch, ..., out]."""
        flat = values.flatten(1, -2) if values.ndim > 3 else values
        output = self._multiply(flat)
        return output.unflatten(1, values.shape[1:-1]) if values.ndim > 3 else output

    def _multiply(self, values: Tensor) -> Tensor:
        """Return the outputs [M, n, out] for values [M, n, in]."""
        anchor = self.weight.anchor
        is_shared = values.stride(0) == 0 and not values.requires_grad
        if is_shared:
            return _SharedProduct.apply(anchor, values[0], self.weight, self.bias)
        return _Product.apply(anchor, values, self.weight, self.bias)


class _Product(torch.autograd.Function):
    """The product of values and weights of their own: [M, n, in] -> [M, n, out]."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, values: Tensor, weight: StackedParameter, bias: StackedParameter | None
    ) -> Tensor:
        """Return the outputs [M, n, out], biases included."""
        ctx.weight, ctx.bias, ctx.input_dtype = weight, bias, values.dtype
        values = values.to(weight.compute_values.dtype)
        ctx.save_for_backward(values)
        output = torch.bmm(values, weight.compute_values.transpose(1, 2))
        return output if bias is None else output.add_(bias.compute_values.unsqueeze(1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Write the gradients of weights and biases, and return that of the values [M, n, in] if it is needed."""
        (output,) = gradients
        (values,) = ctx.saved_tensors
        _write_product(torch.bmm, output.transpose(1, 2), values, ctx.weight.gradients)
        _write_bias_gradients(ctx.bias, output)
        if not ctx.needs_input_grad[1]:
            return None, None, None, None
        return None, torch.bmm(output, ctx.weight.compute_values).to(ctx.input_dtype), None, None


class _SharedProduct(torch.autograd.Function):
    """The product of values that all M trainings share, [n, in], with all weights at once: -> [M, n, out]."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, values: Tensor, weight: StackedParameter, bias: StackedParameter | None
    ) -> Tensor:
        """Return the outputs [M, n, out], biases included."""
        ctx.weight, ctx.bias = weight, bias
        weights = weight.compute_values
        values = values.to(weights.dtype)
        ctx.save_for_backward(values)
        count, size, _ = weights.shape
        output = torch.mm(weights.flatten(0, 1), values.t()).view(count, size, len(values)).transpose(1, 2)
        if bias is None:
            return output.contiguous()
        return torch.add(output, bias.compute_values.unsqueeze(1), out=output.new_empty(output.shape))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Write the gradients of weights and biases. The values need none."""
        (output,) = gradients
        (values,) = ctx.saved_tensors
        _write_product(torch.mm, output.transpose(1, 2).flatten(0, 1), values, ctx.weight.gradients)
        _write_bias_gradients(ctx.bias, output)
        return None, None, None, None


def _write_product(product: Any, left: Tensor, right: Tensor, target: Tensor) -> None:
    """Write the product of `left` and `right` to `target`, which may have another shape, layout or dtype."""
    shape = (*left.shape[:-1], right.shape[-1])
    if target.is_contiguous() and target.dtype == left.dtype:
        product(left, right, out=target.view(shape))
        return
    target.copy_(product(left, right).view(target.shape))


def _write_bias_gradients(bias: StackedParameter | None, output: Tensor) -> None:
    """Write the gradients of biases [M, out], given those of the outputs [M, n, out]."""
    if bias is not None:
        torch.sum(output, 1, dtype=bias.gradients.dtype, out=bias.gradients)
