"""A network as a chain of operations, traced once, with its layers and the places where it can be cut.

A cut is possible wherever exactly one tensor crosses from the operations before it to those after it. Inside a residual
block, for example, there is none. A cut has the name of the node of the traced graph whose tensor crosses it.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import fx, nn

from partrain.errors import UserError
from partrain.networks.deferred import TORCH_PATCH_LOCK, InitTape, record_network
from partrain.networks.nonlinearities import ACTIVATION_FUNCTIONS, ACTIVATION_MODULES


@dataclass(frozen=True)
class Layer:
    """A module with weights, and the normalisation, activation and pooling that follow it.

    Attributes:
        name: Name of the module with weights.
        start: Position of its first node in the chain.
        stop: Position after its last node.
    """

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Cut:
    """A place between two nodes of the chain that a single tensor crosses.

    Attributes:
        name: Name of the node whose tensor crosses.
        position: Number of nodes before the cut.
    """

    name: str
    position: int


class BuildsNetwork(Protocol):
    """The part of a network's settings that a chain needs."""

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Return the network for images of `input_shape`, (channels, height, width), and `num_classes` classes."""
        ...


class _Tracer(fx.Tracer):
    """A tracer that keeps modules without children whole, so that they keep their train or eval mode (dropout)."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        """Return whether calls of `module` are one node."""
        return super().is_leaf_module(module, qualified_name) or not any(module.children())


class Chain:
    """A recorded network (see `deferred`) as a chain of operations, with its layers and its cuts.

    Args:
        network: The recorded network.
        tape: Its tape.

    Attributes:
        input: The node of the images.
        nodes: The nodes between input and output, in the order in which they are computed.
        output: The node whose tensor is the network's output.
        cuts: All places where the network can be cut, from its input to its output.
        layers: The layers, from the network's input to its output.

    Raises:
        UserError: If the network cannot be traced, for example because it branches on values of tensors.
    """

    def __init__(self, network: nn.Module, tape: InitTape) -> None:
        self.network = network
        self.tape = tape
        graph = self._trace()
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            raise UserError(
                f"network: the forward method of {type(network).__name__} takes {len(inputs)} arguments, expected 1. "
                "Let it take a batch of images alone."
            )
        self.input: fx.Node = inputs[0]
        self.nodes: list[fx.Node] = [n for n in graph.nodes if n.op not in ("placeholder", "output", "get_attr")]
        self.output: fx.Node = next(n for n in graph.nodes if n.op == "output").args[0]
        self.cuts = self._find_cuts()
        self._cuts_by_name = {cut.name: cut for cut in self.cuts}
        self.layers = self._find_layers()

    @classmethod
    def build(cls, settings: BuildsNetwork, input_shape: Sequence[int], num_classes: int) -> "Chain":
        """Record and trace the network that `settings` describe, without memory for its weights.

        Args:
            settings: Settings of the network.
            input_shape: Shape of an image: (channels, height, width).
            num_classes: Number of classes.

        Raises:
            UserError: If the network cannot be built or traced.
        """
        return cls(*record_network(lambda: settings.build(tuple(input_shape), num_classes)))

    # ---- Tracing.

    def _trace(self) -> fx.Graph:
        try:
            with TORCH_PATCH_LOCK:
                return _Tracer().trace(self.network)
        except (fx.proxy.TraceError, TypeError, ValueError) as error:
            raise UserError(
                f"network: {type(self.network).__name__} cannot be traced by torch.fx, so it cannot be cut ({error}). "
                "Write its forward method without branches on values of tensors."
            ) from None

    def _find_cuts(self) -> list[Cut]:
        """Return a cut at each position that one tensor crosses, unless the tensor crossed an earlier cut.

        Position p is between node p - 1 and node p. A node's tensor crosses p if it is made before and used after it:

            input -> n0 -> n1 -> n2 -> n3 = n1 + n2 -> output
                         ^     ^     ^
            position     1     2     3      n1 and n2 cross 3, so there is no cut
        """
        end = len(self.nodes)
        positions = {node: position for position, node in enumerate(self.nodes)}
        last_use = {
            node: max((positions.get(user, end) for user in node.users), default=-1)
            for node in (self.input, *self.nodes)
        }
        cuts: list[Cut] = []
        for position in range(1, end):
            crossing = [node for node in (self.input, *self.nodes[:position]) if last_use[node] >= position]
            is_new = not cuts or cuts[-1].name != crossing[0].name
            if len(crossing) == 1 and crossing[0] is not self.input and is_new:
                cuts.append(Cut(crossing[0].name, position))
        return cuts

    def _find_layers(self) -> list[Layer]:
        """Return a layer for each piece between neighbouring cuts that has weights.

        A layer extends to the next one, over the pieces without weights in between. The first starts at the input.
        """
        positions = [0, *(cut.position for cut in self.cuts), len(self.nodes)]
        weighted = [(start, stop) for start, stop in itertools.pairwise(positions) if self._has_weights(start, stop)]
        if not weighted:
            raise UserError(
                f"network: {type(self.network).__name__} has no layer with weights, so there is nothing to train. "
                "Choose another network."
            )
        names = [self._module_name(start, stop) for start, stop in weighted]
        starts = [0, *(start for start, _ in weighted[1:])]
        stops = [*starts[1:], len(self.nodes)]
        return [Layer(name, start, stop) for name, start, stop in zip(names, starts, stops, strict=True)]

    def _has_weights(self, start: int, stop: int) -> bool:
        """Return whether nodes [start, stop) use a module with a weight matrix, or a matrix by its name."""
        for node in self.nodes[start:stop]:
            if node.op == "call_module":
                module = self.network.get_submodule(str(node.target))
                if any(parameter.ndim >= 2 for parameter in module.parameters()):
                    return True
            if any(source.op == "get_attr" and self._is_matrix(str(source.target)) for source in node.all_input_nodes):
                return True
        return False

    def _is_matrix(self, name: str) -> bool:
        """Return whether the attribute `name` of the network is a parameter with two dimensions."""
        owner, _, attribute = name.rpartition(".")
        value = getattr(self.network.get_submodule(owner), attribute)
        return isinstance(value, nn.Parameter) and value.ndim == 2

    def _module_name(self, start: int, stop: int) -> str:
        """Return the name of the first module among nodes [start, stop), or of their first node if there is none."""
        modules = [str(node.target) for node in self.nodes[start:stop] if node.op == "call_module"]
        return modules[0] if modules else self.nodes[start].name

    # ---- Choosing cuts.

    def cut_after(self, layer: int, *, before_activation: bool = False) -> Cut:
        """Return the cut between a layer and the next, or before the layer's activation.

        Flattening is left to the segment after the cut, so that a feature map crosses in its own shape.

        Args:
            layer: Number of the layer, from 0.
            before_activation: Whether to cut before the layer's activation, if a single tensor crosses there.
        """
        start, stop = self.layers[layer].start, self.layers[layer].stop
        candidates = [
            cut for cut in self.cuts if start < cut.position <= stop and not self._is_flatten(cut.position - 1)
        ]
        if before_activation:
            earlier = [cut for cut in candidates if cut.position < stop and self._is_activation(cut.position)]
            if earlier:
                return earlier[0]
        return candidates[-1]

    def cut_before(self, module: str) -> Cut:
        """Return the cut right before the module called `module`.

        Raises:
            UserError: If there is no such module, it is the first, or more than one tensor crosses there.
        """
        position = self._first_position(module)
        if position == 0:
            raise UserError(
                f"partition.at: module {module!r} is the first of the network, so nothing can be cut off before it. "
                "Choose a later module."
            )
        for cut in self.cuts:
            if cut.position == position:
                return cut
        nearest = min(self.layers[1:], key=lambda layer: abs(layer.start - position))
        raise UserError(
            f"partition.at: the network cannot be cut before module {module!r}, where more than one tensor crosses "
            f"(inside a residual block?). Choose {nearest.name!r}, the nearest layer that it can be cut before."
        )

    def cut_named(self, name: str | None) -> Cut | None:
        """Return the cut called `name`. None is the network's input or output, as in all methods that take two cuts.

        Raises:
            KeyError: If the network has no such cut.
        """
        return None if name is None else self._cuts_by_name[name]

    def _first_position(self, module: str) -> int:
        """Return the position of the first node that belongs to the module called `module`.

        Raises:
            UserError: If no node belongs to it.
        """
        for position, node in enumerate(self.nodes):
            if node.op == "call_module" and f"{node.target}.".startswith(f"{module}."):
                return position
        names = ", ".join(layer.name for layer in self.layers)
        raise UserError(f"partition.at: the network has no module {module!r}. Choose one of its layers: {names}.")

    def _is_activation(self, position: int) -> bool:
        """Return whether the node is an activation."""
        node = self.nodes[position]
        if node.op == "call_module":
            return isinstance(self.network.get_submodule(str(node.target)), ACTIVATION_MODULES)
        return _function_name(node) in ACTIVATION_FUNCTIONS

    def _is_flatten(self, position: int) -> bool:
        """Return whether the node only flattens a tensor."""
        node = self.nodes[position]
        if node.op == "call_module":
            return isinstance(self.network.get_submodule(str(node.target)), nn.Flatten)
        return _function_name(node) == "flatten"

    # ---- The parts between cuts.

    def nodes_between(self, start: Cut | None, stop: Cut | None) -> list[fx.Node]:
        """Return the nodes between two cuts. None means the network's input or output."""
        return self.nodes[self._start_position(start) : self._stop_position(stop)]

    def layers_between(self, start: Cut | None, stop: Cut | None) -> list[Layer]:
        """Return the layers that start between two cuts. None means the network's input or output."""
        first, end = self._start_position(start), self._stop_position(stop)
        return [layer for layer in self.layers if first <= layer.start < end]

    def _start_position(self, cut: Cut | None) -> int:
        return 0 if cut is None else cut.position

    def _stop_position(self, cut: Cut | None) -> int:
        return len(self.nodes) if cut is None else cut.position

    def extract_segment(
        self, start: Cut | None, stop: Cut | None, modules_at_cuts: Mapping[str, nn.Module] | None = None
    ) -> fx.GraphModule:
        """Return the part of the network between two cuts as a module, whose tensors have the network's own names.

        Args:
            start: Cut before the segment, or None for the network's input.
            stop: Cut after the segment, or None for the network's output.
            modules_at_cuts: Modules to insert at cuts inside the segment, by the cut's name.
        """
        graph = fx.Graph()
        source = self.input if start is None else self._node(start.name)
        copies: dict[fx.Node, fx.Node] = {source: graph.placeholder(self.input.name)}

        def copy_of(node: fx.Node) -> fx.Node:
            if node not in copies:  # It is a parameter used by name, since everything else was copied in order.
                copies[node] = graph.node_copy(node)
            return copies[node]

        for node in self.nodes_between(start, stop):
            for argument in node.all_input_nodes:
                copy_of(argument)
            copies[node] = graph.node_copy(node, copy_of)
            if modules_at_cuts and node.name in modules_at_cuts:
                self.network.add_module(f"at_{node.name}", modules_at_cuts[node.name])
                copies[node] = graph.call_module(f"at_{node.name}", (copies[node],))
        graph.output(copies[self.output if stop is None else self._node(stop.name)])
        return fx.GraphModule(self.network, graph, class_name="Segment")

    def _node(self, name: str) -> fx.Node:
        return next(node for node in self.nodes if node.name == name)


def _function_name(node: fx.Node) -> str:
    """Return the name of the function or method that a node calls, or an empty text if it has none."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
