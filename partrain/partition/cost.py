"""The cost of each node of a chain in a training step, measured on fake tensors, without memory or computation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from partrain.errors import UserError
from partrain.networks import Chain, Cut
from partrain.networks.deferred import storage_id

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

_BATCH = 2  # images in the measured batch; batch normalisation does not accept a single one


@dataclass(frozen=True)
class NodeCost:
    """The cost of a node, per image.

    Attributes:
        flops: Floating-point operations of the forward pass.
        activation_bytes: Bytes that are stored for the backward pass and that no earlier node has stored.
        shape: Shape of the result without the batch, or None if it is not one tensor.
    """

    flops: int
    activation_bytes: int
    shape: tuple[int, ...] | None


def _flop_counter() -> "FlopCounterMode":
    """Return a counter of floating-point operations. Importing it takes a tenth of a second, which cached plans save."""
    from torch.utils.flop_counter import FlopCounterMode

    return FlopCounterMode(display=False)


def measure_costs(chain: Chain, input_shape: Sequence[int]) -> dict[str, NodeCost]:
    """Return the cost of every node by its name, for images of `input_shape`, (channels, height, width).

    Raises:
        UserError: If the network does not accept such images.
    """
    interpreter = _CostInterpreter(chain)
    with chain.tape.fake_mode:
        images = torch.empty(_BATCH, *input_shape)
        try:
            interpreter.run(images)
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"network: it does not accept images of shape {tuple(input_shape)} ({reason}). "
                "Choose another network or other data."
            ) from None
    return interpreter.costs


class _CostInterpreter(fx.Interpreter):
    """An interpreter that runs a whole network node by node and records the cost of each."""

    def __init__(self, chain: Chain) -> None:
        super().__init__(chain.extract_segment(None, None))
        self.costs: dict[str, NodeCost] = {}
        self._weights = {storage_id(parameter) for parameter in chain.network.parameters()}
        self._counted: set[int] = set()

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and record its operations and the storages that autograd saves for it."""
        saved_bytes = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal saved_bytes
            storage = storage_id(tensor)
            if storage not in self._weights and storage not in self._counted:
                self._counted.add(storage)
                saved_bytes += tensor.untyped_storage().nbytes()
            return tensor

        flops = _flop_counter()
        with flops, torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            result = super().run_node(n)
        shape = tuple(result.shape[1:]) if isinstance(result, Tensor) else None
        self.costs[n.name] = NodeCost(flops.get_total_flops() // _BATCH, saved_bytes // _BATCH, shape)
        return result


def training_flops(chain: Chain, start: Cut | None, stop: Cut | None, shape: Sequence[int]) -> int:
    """Return the floating-point operations of a forward and a backward pass from `start` to `stop`, per image.

    The gradient with respect to the input is left out, since training a segment does not need it.

    Args:
        chain: The network.
        start: Cut before the segment, or None for the network's input.
        stop: Cut after the segment, or None for the network's output.
        shape: Shape of the segment's input, without the batch.
    """
    segment = chain.extract_segment(start, stop)
    flops = _flop_counter()
    with chain.tape.fake_mode, flops:
        segment(torch.empty(_BATCH, *shape)).sum().backward()
    return flops.get_total_flops() // _BATCH
