"""An estimate of where to cut a model into shards: as few as fit on a device, by what its layers seem to need.

`preparation` then tries the cuts and corrects the estimate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, fx

from partrain.networks import NETWORKS, Chain
from partrain.partition.cost import measure_costs
from partrain.training.optimization import moment_names, weight_dtype
from partrain.training.task import SegmentTask

_FP32_BYTES = 4  # of a number; activations are measured in fp32

CutNames = tuple[str | None, str | None]
"""The names of the cuts where a shard starts and stops. None is the start or end of the task's own network."""


@dataclass(frozen=True)
class Piece:
    """The smallest part of a model that can be a shard: a layer with weights and what follows it up to the next one."""

    name: str
    """The name of its layer."""
    start: str | None
    """The name of the cut that it begins at, None at the beginning of the task's network."""
    weight_bytes: int
    """Bytes of parameters and buffers."""
    state_bytes: int
    """Bytes of the optimiser's state."""
    activation_bytes: int
    """Bytes of activations that the forward pass of one batch leaves for the backward pass."""


@dataclass(frozen=True)
class PieceChain:
    """A task's network as a chain of pieces, from left to right."""

    pieces: tuple[Piece, ...]
    stop: str | None
    """The name of the cut that the task's network ends at, None at the end of the whole network."""

    @classmethod
    def from_task(cls, task: SegmentTask) -> "PieceChain":
        """Return the pieces of the task's network, which takes no memory for its weights."""
        network = _TracedNetwork(task)
        bounds = network.piece_bounds()
        return cls(tuple(network.measure_piece(first, last) for first, last in pairwise(bounds)), task.stop)

    def cuts(self, first_pieces: Sequence[int]) -> list[CutNames]:
        """Return the cuts of each shard, where shards begin at the pieces with the numbers `first_pieces`."""
        starts = [self.pieces[first].start for first in first_pieces]
        return list(zip(starts, [*starts[1:], self.stop], strict=True))

    def fewest_shards(self, budget: int, workspace_factor: float, *, double_buffer: bool) -> list[int] | None:
        """Return the number of the first piece of each shard, for as few shards as are estimated to fit on a device.

        Args:
            budget: Bytes of the device.
            workspace_factor: How much more a unit's workspace is expected to take than estimated.
            double_buffer: Whether a second shard is on the device meanwhile.

        Returns:
            None if one piece alone does not fit.
        """

        # A shard grows to the right until the next piece no longer fits:
        #
        #     pieces   0   1   2   3   4   5
        #     shards  [0   1] [2   3   4] [5]    returned: 0, 2, 5
        def fits(first: int, last: int) -> bool:
            return self.estimate_bytes(first, last, workspace_factor, double_buffer=double_buffer) <= budget

        first_pieces = [0]
        for piece in range(len(self.pieces)):
            if fits(first_pieces[-1], piece + 1):
                continue
            if not fits(piece, piece + 1):
                return None
            first_pieces.append(piece)
        return first_pieces

    def estimate_bytes(self, first: int, last: int, workspace_factor: float, *, double_buffer: bool) -> int:
        """Return the bytes that a device needs for a shard of the pieces [first, last), by an estimate.

        It holds the shard, with `double_buffer` another one of the same size, and the workspace of one unit:
        `workspace_factor` times the shard's gradients and activations.
        """
        pieces = self.pieces[first:last]
        shard = sum(piece.weight_bytes + piece.state_bytes for piece in pieces)
        workspace = sum(piece.weight_bytes + piece.activation_bytes for piece in pieces)  # gradients are like weights
        return (1 + double_buffer) * shard + int(workspace_factor * workspace)


class _TracedNetwork:
    """The network of a task, traced without memory for its weights."""

    def __init__(self, task: SegmentTask) -> None:
        self.task = task
        self.chain = Chain.build(NETWORKS.from_dict(task.network), task.image_shape, task.num_classes)
        self.costs = measure_costs(self.chain, task.image_shape)
        self.cut_names = {cut.position: cut.name for cut in self.chain.cuts}
        self.layer_names = {layer.start: layer.name for layer in self.chain.layers}
        self.first, self.last = self._task_range()

    def _task_range(self) -> tuple[int, int]:
        """Return the range [first, last) of the chain's nodes that the task trains."""
        positions = {cut.name: cut.position for cut in self.chain.cuts}
        first = 0 if self.task.start is None else positions[self.task.start]
        last = len(self.chain.nodes) if self.task.stop is None else positions[self.task.stop]
        return first, last

    def piece_bounds(self) -> list[int]:
        """Return the positions between which pieces are, from the task's first node to behind its last one."""
        candidates = {layer.start for layer in self.chain.layers if self.first < layer.start < self.last}
        inner = sorted(candidates & (self.cut_names.keys() - self._positions_within_shared_tensors()))
        if inner and not self._tensors(self.first, inner[0]):
            inner = inner[1:]  # Nodes without weights join the layer after them.
        return [self.first, *inner, self.last]

    def measure_piece(self, first: int, last: int) -> Piece:
        """Return the piece of the nodes [first, last)."""
        train = self.task.train
        itemsize = weight_dtype(train.precision).itemsize
        tensors = {id(tensor): tensor for tensor in self._tensors(first, last).values()}.values()
        trained = sum(itemsize * tensor.numel() for tensor in tensors if tensor.requires_grad)
        activation_bytes = sum(self.costs[node.name].activation_bytes for node in self.chain.nodes[first:last])
        return Piece(
            name=self.layer_names.get(first, self.chain.nodes[first].name),
            start=self.task.start if first == self.first else self.cut_names[first],
            weight_bytes=sum(itemsize * tensor.numel() for tensor in tensors),
            state_bytes=len(moment_names(train)) * trained,
            activation_bytes=activation_bytes * train.batch_size * itemsize // _FP32_BYTES,
        )

    def _positions_within_shared_tensors(self) -> set[int]:
        """Return the positions at which no cut may be, since both sides use the same tensor.

        A tensor cannot be in two shards.
        """
        first_uses: dict[int, int] = {}
        positions: set[int] = set()
        for position in range(len(self.chain.nodes)):
            for tensor in self._tensors(position, position + 1).values():
                first_use = first_uses.setdefault(id(tensor), position)
                positions.update(range(first_use + 1, position + 1))
        return positions

    def _tensors(self, first: int, last: int) -> dict[str, Tensor]:
        """Return the parameters and buffers that the nodes [first, last) use, by name."""
        tensors: dict[str, Tensor] = {}
        for node in self.chain.nodes[first:last]:
            if node.op == "call_module":
                module = self.chain.network.get_submodule(str(node.target))
                for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                    tensors[f"{node.target}.{name}"] = tensor
            for source in node.all_input_nodes:
                if source.op == "get_attr":
                    tensors[str(source.target)] = self._attribute(source)
        return tensors

    def _attribute(self, node: fx.Node) -> Tensor:
        """Return the tensor that a `get_attr` node refers to by name."""
        owner, _, attribute = str(node.target).rpartition(".")
        tensor: Tensor = getattr(self.chain.network.get_submodule(owner), attribute)
        return tensor
