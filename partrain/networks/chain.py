"""A network as a chain: traced once, it shows its layers and every place where it can be cut.

A cut can stand wherever exactly one tensor crosses from what is computed before to what is computed after; inside a
residual block, say, there is none. A cut is named by the node of the traced graph whose tensor crosses it.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx, nn

from partrain.errors import UserError
from partrain.networks.deferred import TORCH_PATCH_LOCK, InitTape, record_network
from partrain.networks.nonlinearities import ACTIVATION_FUNCTIONS, ACTIVATION_MODULES


@dataclass(frozen=True)
class Layer:
    """A weighted module with the normalisation, activation and pooling behind it: nodes [start, stop) of the chain."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Cut:
    """A place between two nodes of the chain: `position` nodes before it; the tensor of node `name` crosses."""

    name: str
    position: int


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        # a module without children stays whole, so that it keeps its train or eval mode (dropout, stochastic depth)
        return super().is_leaf_module(module, qualified_name) or not any(module.children())


class Chain:
    """A recorded `network` (see `deferred`), its layers and its cuts.

    Raises:
        ValueError: the network cannot be traced, e.g. because its path depends on values.
    """

    def __init__(self, network: nn.Module, tape: InitTape) -> None:
        self.network = network
        self.tape = tape
        try:
            with TORCH_PATCH_LOCK:
                graph = _Tracer().trace(network)
        except (fx.proxy.TraceError, TypeError) as error:
            raise UserError(
                f"network: {type(network).__name__} cannot be traced, so it cannot be cut: {error}"
            ) from None
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            raise UserError(f"network: {type(network).__name__} must take one tensor, it takes {len(inputs)}")
        self.input: fx.Node = inputs[0]
        self.nodes: list[fx.Node] = [n for n in graph.nodes if n.op not in ("placeholder", "output", "get_attr")]
        self.output: fx.Node = next(n for n in graph.nodes if n.op == "output").args[0]
        self.cuts = self._find_cuts(graph)
        self.layers = self._find_layers()

    @classmethod
    def build(cls, settings: "object", input_shape: Sequence[int], num_classes: int) -> "Chain":
        """Record and trace the network that `settings` describe, without memory for its weights."""
        return cls(*record_network(lambda: settings.build(tuple(input_shape), num_classes)))  # type: ignore[attr-defined]

    def _find_cuts(self, graph: fx.Graph) -> list[Cut]:
        order = {node: position for position, node in enumerate(self.nodes)}
        ends = len(self.nodes)
        last_use = {}
        for node in (self.input, *self.nodes):
            uses = [order.get(user, ends) for user in node.users]
            last_use[node] = max(uses, default=-1)
        cuts: list[Cut] = []
        for position in range(1, ends):
            crossing = [node for node in (self.input, *self.nodes[:position]) if last_use[node] >= position]
            new = not cuts or cuts[-1].name != crossing[0].name
            if len(crossing) == 1 and crossing[0] is not self.input and new:
                cuts.append(Cut(crossing[0].name, position))
        return cuts

    def _find_layers(self) -> list[Layer]:
        places = [0, *(cut.position for cut in self.cuts), len(self.nodes)]
        pieces = list(itertools.pairwise(places))
        starts = [(first, last) for first, last in pieces if self._is_weighted(first, last)]
        if not starts:
            raise UserError(f"network: {type(self.network).__name__} has no layer with weights")
        layers = []
        for number, (first, last) in enumerate(starts):
            start = 0 if number == 0 else first
            stop = starts[number + 1][0] if number + 1 < len(starts) else len(self.nodes)
            layers.append(Layer(self._name_of(first, last), start, stop))
        return layers

    def _is_weighted(self, first: int, last: int) -> bool:
        """Whether a module with a weight matrix, or a matrix used by name, is among these nodes."""
        for node in self.nodes[first:last]:
            if node.op == "call_module":
                module = self.network.get_submodule(str(node.target))
                if any(parameter.ndim >= 2 for parameter in module.parameters()):
                    return True
            if any(source.op == "get_attr" and self._is_matrix(str(source.target)) for source in node.all_input_nodes):
                return True
        return False

    def _is_matrix(self, name: str) -> bool:
        owner, _, attribute = name.rpartition(".")
        value = getattr(self.network.get_submodule(owner), attribute)
        return isinstance(value, nn.Parameter) and value.ndim == 2

    def _name_of(self, first: int, last: int) -> str:
        modules = [str(node.target) for node in self.nodes[first:last] if node.op == "call_module"]
        return modules[0] if modules else self.nodes[first].name

    def is_activation(self, position: int) -> bool:
        """Whether node `position` is a non-linearity without weights."""
        node = self.nodes[position]
        if node.op == "call_module":
            return isinstance(self.network.get_submodule(str(node.target)), ACTIVATION_MODULES)
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        return name in ACTIVATION_FUNCTIONS

    def _is_flatten(self, position: int) -> bool:
        node = self.nodes[position]
        if node.op == "call_module":
            return isinstance(self.network.get_submodule(str(node.target)), nn.Flatten)
        return "flatten" in (node.target, getattr(node.target, "__name__", ""))

    def cut_behind(self, layer: int, before_activation: bool = False) -> Cut:
        """The cut behind layer number `layer`: right before the next layer, or before this one's non-linearity.

        A flattening goes to the right of the cut, so that a feature map is seen as one.
        """
        first, last = self.layers[layer].start, self.layers[layer].stop
        inside = [cut for cut in self.cuts if first < cut.position <= last and not self._is_flatten(cut.position - 1)]
        if before_activation:
            before = [cut for cut in inside if cut.position < last and self.is_activation(cut.position)]
            return before[0] if before else inside[-1]
        return inside[-1]

    def cut_before(self, module: str) -> Cut:
        """The cut right before the module called `module`.

        Raises:
            ValueError: there is no such module, nothing is before it, or more than one tensor crosses there.
        """
        inside = [
            position
            for position, node in enumerate(self.nodes)
            if node.op == "call_module" and f"{node.target}.".startswith(f"{module}.")
        ]
        if not inside:
            names = ", ".join(layer.name for layer in self.layers)
            raise UserError(f"partition.at: the network has no module {module!r}; its layers: {names}")
        if inside[0] == 0:
            raise UserError(f"partition.at: nothing stands before module {module!r}, so it cannot be cut off there")
        for cut in self.cuts:
            if cut.position == inside[0]:
                return cut
        nearest = min(self.layers[1:], key=lambda layer: abs(layer.start - inside[0]))
        raise UserError(
            f"partition.at: more than one tensor crosses right before module {module!r} (inside a residual block?), "
            f"so it cannot be cut there; the nearest layer it can be cut before is {nearest.name!r}"
        )

    def extract_segment(
        self, start: Cut | None, stop: Cut | None, between: Mapping[str, nn.Module] | None = None
    ) -> fx.GraphModule:
        """The part between two cuts (None: the network's end) as a module whose tensors have the network's own names.

        `between`: modules to put in the way of the tensors that cross the cuts of these names.
        """
        graph = fx.Graph()
        source = self.input if start is None else self._node(start.name)
        copies: dict[fx.Node, fx.Node] = {source: graph.placeholder(self.input.name)}

        def copy_of(node: fx.Node) -> fx.Node:
            if node not in copies:  # a parameter used by name; everything else was copied in order
                copies[node] = graph.node_copy(node)
            return copies[node]

        first = 0 if start is None else start.position
        last = len(self.nodes) if stop is None else stop.position
        for node in self.nodes[first:last]:
            for parameter in node.all_input_nodes:
                copy_of(parameter)
            copies[node] = graph.node_copy(node, copy_of)
            if between and node.name in between:
                self.network.add_module(f"at_{node.name}", between[node.name])
                copies[node] = graph.call_module(f"at_{node.name}", (copies[node],))
        graph.output(copies[self.output if stop is None else self._node(stop.name)])
        return fx.GraphModule(self.network, graph, class_name="Segment")

    def _node(self, name: str) -> fx.Node:
        return next(node for node in self.nodes if node.name == name)
