"""Networks of the same structure as one module: which can be (`structure`), and the module (`stacked`)."""

import operator
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from partrain.networks.nonlinearities import ACTIVATION_FUNCTIONS
from partrain.packs.layers import LAYERS, Each
from partrain.packs.member_modules import MemberModules
from partrain.packs.member_rngs import MemberRngs
from partrain.packs.stacked_parameters import StackedParameters

_ARITHMETIC = frozenset((operator.add, operator.iadd, operator.mul, operator.sub, torch.add, torch.mul, torch.sub))


def structure(segment: fx.GraphModule) -> Hashable | None:
    """What networks must have in common to be stacked: layers, how they are connected, shapes of all tensors.

    Names do not matter, so that segments from different depths of a network can be stacked. None: one in which modules
    share weights, which a stack would give each of its own.
    """
    if len(dict(segment.named_parameters())) < len(dict(segment.named_parameters(remove_duplicate=False))):
        return None
    numbers = {node: number for number, node in enumerate(segment.graph.nodes)}
    return tuple(_described(segment, node, numbers) for node in segment.graph.nodes)


def _described(segment: fx.GraphModule, node: fx.Node, numbers: dict[fx.Node, int]) -> Hashable:
    arguments = repr(fx.map_arg((node.args, node.kwargs), lambda other: numbers[other]))
    if node.op == "call_module":
        module = segment.get_submodule(str(node.target))
        return "module", type(module), _own_key(module) or repr(module), _shapes(module), arguments
    if node.op == "get_attr":
        tensor = _attribute(segment, str(node.target))
        return "tensor", tuple(tensor.shape), tensor.dtype, tensor.requires_grad
    if node.op in ("placeholder", "output"):
        return node.op, arguments
    return node.op, node.target, arguments


def _own_key(module: nn.Module) -> tuple[Any, ...] | None:
    return LAYERS[type(module)].key(module) if type(module) in LAYERS else None


def _shapes(module: nn.Module) -> tuple[Any, ...]:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return tuple((name, tuple(tensor.shape), tensor.dtype, tensor.requires_grad) for name, tensor in tensors)


def _attribute(segment: fx.GraphModule, name: str) -> Tensor:
    owner, _, attribute = name.rpartition(".")
    return getattr(segment.get_submodule(owner), attribute)


class _Function(nn.Module):
    """A function of the graph: at once where it treats every number alike, else one training after another."""

    def __init__(self, target: Any, is_method: bool, count: int, streams: MemberRngs) -> None:
        super().__init__()
        name = target if is_method else getattr(target, "__name__", "")
        self.call = (lambda value, *args, **kwargs: getattr(value, target)(*args, **kwargs)) if is_method else target
        self.is_flatten = name == "flatten"
        self.is_activation = name in ACTIVATION_FUNCTIONS
        self.is_arithmetic = not is_method and target in _ARITHMETIC
        self.is_item = target is operator.getitem
        self.each = Each([self.call] * count, streams)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_activation or (self.is_item and isinstance(args[0], tuple | list)):
            return self.call(*args, **kwargs)
        tensors = [value for value in args if isinstance(value, Tensor)]
        if self.is_arithmetic and len({tensor.ndim for tensor in tensors}) == 1:
            return self.call(*args, **kwargs)
        if self.is_flatten and args[1:] == (1,) and not kwargs:
            return args[0].flatten(2)
        return self.each(*args, **kwargs)


class _Attribute(nn.Module):
    """A parameter or buffer that the graph uses by name, of all trainings."""

    def __init__(self, parts: MemberModules, name: str) -> None:
        super().__init__()
        is_parameter = isinstance(getattr(parts.modules[0], name), nn.Parameter)
        held = None if is_parameter else parts.buffer(name)
        self.get = parts.parameter(name) if is_parameter else lambda: held

    def forward(self) -> Any:
        return self.get()


def stacked(segments: Sequence[fx.GraphModule], rows: StackedParameters, streams: MemberRngs) -> fx.GraphModule:
    """`segments` of equal `structure` as one: [M, batch, ...] -> [M, batch, ...], on the weights in `rows`."""
    layers, graph = nn.ModuleDict(), fx.Graph()
    uses = Counter(str(node.target) for node in segments[0].graph.nodes if node.op == "call_module")
    copies: dict[fx.Node, fx.Node] = {}
    for number, nodes in enumerate(zip(*(segment.graph.nodes for segment in segments), strict=True)):
        first = nodes[0]
        args, kwargs = fx.map_arg((first.args, first.kwargs), lambda node: copies[node])
        if first.op == "placeholder":
            copies[first] = graph.placeholder("values")
            continue
        if first.op == "output":
            graph.output(args[0])
            continue
        name = f"layer{number}"
        if first.op == "call_module":
            modules = [segment.get_submodule(str(node.target)) for segment, node in zip(segments, nodes, strict=True)]
            once = uses[str(first.target)] == 1  # what is used twice adds its gradients up, which autograd does
            layers[name] = _layer(modules, once, rows, streams)
        elif first.op == "get_attr":
            owners, attribute = _owners(segments, nodes)
            layers[name] = _Attribute(MemberModules(owners, rows, streams), attribute)
        else:
            layers[name] = _Function(first.target, first.op == "call_method", len(segments), streams)
        copies[first] = graph.call_module(name, args, kwargs)
    return fx.GraphModule(layers, graph, class_name="Unified")


def _layer(modules: Sequence[nn.Module], once: bool, rows: StackedParameters, streams: MemberRngs) -> nn.Module:
    kind = type(modules[0])
    if once and _own_key(modules[0]) is not None:
        return LAYERS[kind](MemberModules(modules, rows, streams))
    rows.link_gradients(modules)
    return Each(modules, streams)


def _owners(segments: Sequence[fx.GraphModule], nodes: Sequence[fx.Node]) -> tuple[list[nn.Module], str]:
    """The modules that hold a tensor used by name, and its name there."""
    owners = [
        segment.get_submodule(str(node.target).rpartition(".")[0])
        for segment, node in zip(segments, nodes, strict=True)
    ]
    return owners, str(nodes[0].target).rpartition(".")[2]
