"""Where a model is cut into shards: as few as fit on a device, by what they are estimated to need, then by trial."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from partrain.networks import Chain, network_settings_from_dict
from partrain.partition.cost import NodeCost, measure_costs
from partrain.training.optimization import moment_names, weight_dtype
from partrain.training.task import SegmentTask

_REFERENCE = 4  # bytes of a number in the costs, which are measured in fp32


@dataclass(frozen=True)
class Piece:
    """The smallest part that can be a shard: a layer up to the next. Bytes: of weights, of the optimiser's state, and of
    activations of a batch."""

    name: str
    start: str | None
    weights: int
    state: int
    activations: int


@dataclass(frozen=True)
class Pieces:
    """A task's network as a row of pieces; `stop` is the task's own end."""

    pieces: tuple[Piece, ...]
    stop: str | None

    @classmethod
    def of(cls, task: SegmentTask) -> "Pieces":
        """Those of the task's network, without memory for it."""
        chain = Chain.build(network_settings_from_dict(task.network), task.image_shape, task.num_classes)
        costs = measure_costs(chain, task.image_shape)
        order = {cut.name: cut.position for cut in chain.cuts}
        first = 0 if task.start is None else order[task.start]
        last = len(chain.nodes) if task.stop is None else order[task.stop]
        names = {cut.position: cut.name for cut in chain.cuts}
        shared = _shared(chain)
        inner = [
            layer.start
            for layer in chain.layers
            if first < layer.start < last and layer.start in names and layer.start not in shared
        ]
        if inner and not _tensors(chain, chain.nodes[first : inner[0]]):
            inner = inner[1:]  # what has no weights goes with what comes next
        places = [first, *inner, last]
        starts = [task.start, *(names[place] for place in inner)]
        layers = {layer.start: layer.name for layer in chain.layers}
        pieces = [
            _piece(task, chain, costs, layers.get(begin, chain.nodes[begin].name), start, begin, end)
            for start, begin, end in zip(starts, places[:-1], places[1:], strict=True)
        ]
        return cls(tuple(pieces), task.stop)

    def cut(self, shards: Sequence[int]) -> list[tuple[str | None, str | None]]:
        """Start and stop of shards that begin at these pieces."""
        starts = [self.pieces[first].start for first in shards]
        return list(zip(starts, [*starts[1:], self.stop], strict=True))

    def fewest(self, budget: int, factor: float, double_buffer: bool) -> list[int] | None:
        """The first pieces of as few shards as fit into `budget` bytes, work taking `factor` times its estimate.

        None: one piece alone does not fit.
        """
        firsts, first = [0], 0
        for last in range(1, len(self.pieces) + 1):
            if self.need(first, last, factor, double_buffer) > budget:
                if last - 1 == first:
                    return None
                first = last - 1
                firsts.append(first)
                if self.need(first, last, factor, double_buffer) > budget:
                    return None
        return firsts

    def need(self, first: int, last: int, factor: float, double_buffer: bool) -> int:
        """Bytes that a device needs for pieces [first, last): the shard, with `double_buffer` another, and the work."""
        held = self.pieces[first:last]
        shard = sum(piece.weights + piece.state for piece in held)
        work = sum(piece.weights + piece.activations for piece in held)  # a gradient is as large as its weight
        return (1 + double_buffer) * shard + int(factor * work)


def _piece(
    task: SegmentTask, chain: Chain, costs: dict[str, NodeCost], name: str, start: str | None, first: int, last: int
) -> Piece:
    size = weight_dtype(task.train.precision).itemsize
    tensors = _tensors(chain, chain.nodes[first:last])
    once = {id(tensor): tensor for tensor in tensors.values()}.values()  # some are shared
    weights = sum(size * tensor.numel() for tensor in once)
    trained = sum(size * tensor.numel() for tensor in once if tensor.requires_grad)
    kept = sum(costs[node.name].activation_bytes for node in chain.nodes[first:last])
    return Piece(
        name, start, weights, len(moment_names(task.train)) * trained, kept * task.train.batch_size * size // _REFERENCE
    )


def _tensors(chain: Chain, nodes: Sequence[fx.Node]) -> dict[str, Tensor]:
    """The parameters and buffers that `nodes` use, by name."""
    found: dict[str, Tensor] = {}
    network = chain.network
    for node in nodes:
        if node.op == "call_module":
            module = network.get_submodule(str(node.target))
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                found[f"{node.target}.{name}"] = tensor
        for source in node.all_input_nodes:
            if source.op == "get_attr":
                owner, _, attribute = str(source.target).rpartition(".")
                found[str(source.target)] = getattr(network.get_submodule(owner), attribute)
    return found


def _shared(chain: Chain) -> set[int]:
    """The places on both sides of which the same tensor is used: it could not be in one shard."""
    begun: dict[int, int] = {}
    places: set[int] = set()
    for position, node in enumerate(chain.nodes):
        for tensor in _tensors(chain, [node]).values():
            first = begun.setdefault(id(tensor), position)
            places.update(range(first + 1, position + 1))
    return places
