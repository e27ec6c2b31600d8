"""What each node of a chain costs: measured on fake tensors, so no memory is taken and nothing is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from partrain.errors import UserError
from partrain.networks import Chain, Cut

_BATCH = 2  # one image would do, but batch normalisation wants two


@dataclass(frozen=True)
class NodeCost:
    """Per image: floating-point operations forward, bytes kept for the backward pass, shape of the result."""

    flops: int
    activation_bytes: int
    shape: tuple[int, ...] | None


class _Meter(fx.Interpreter):
    def __init__(self, chain: Chain) -> None:
        graph = chain.extract_segment(None, None)
        super().__init__(graph)
        self.costs: dict[str, NodeCost] = {}
        self._weights = {parameter.untyped_storage()._cdata for parameter in chain.network.parameters()}
        self._counted: set[int] = set()

    def run_node(self, n: fx.Node) -> Any:
        kept = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal kept
            storage = tensor.untyped_storage()
            if storage._cdata not in self._weights and storage._cdata not in self._counted:
                self._counted.add(storage._cdata)
                kept += storage.nbytes()
            return tensor

        flops = FlopCounterMode(display=False)
        with flops, torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            result = super().run_node(n)
        shape = tuple(result.shape[1:]) if isinstance(result, Tensor) else None
        self.costs[n.name] = NodeCost(flops.get_total_flops() // _BATCH, kept // _BATCH, shape)
        return result


def measure_costs(chain: Chain, input_shape: Sequence[int]) -> dict[str, NodeCost]:
    """The cost of every node, by its name, of one training step per image of `input_shape`.

    Raises:
        ValueError: the network does not take such images.
    """
    meter = _Meter(chain)
    with chain.tape.fake_mode:
        images = torch.empty(_BATCH, *input_shape)
        try:
            meter.run(images)
        except (RuntimeError, TypeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"network: it does not take images of shape {tuple(input_shape)}: {reason}") from None
    return meter.costs


def training_flops(chain: Chain, start: Cut | None, stop: Cut | None, shape: Sequence[int]) -> int:
    """Floating-point operations of a forward and a backward pass from `start` to `stop`, per image.

    `shape`: per image, of what goes in at `start`. No gradient is taken with respect to it, as nobody there asks for one.
    """
    segment = chain.extract_segment(start, stop)
    flops = FlopCounterMode(display=False)
    with chain.tape.fake_mode, flops:
        segment(torch.empty(_BATCH, *shape)).sum().backward()
    return flops.get_total_flops() // _BATCH
