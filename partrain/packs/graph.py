"""Networks of one structure as a single module: whether they can be stacked (`structure`), and the module itself."""

import operator
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from partrain.networks.nonlinearities import ACTIVATION_FUNCTIONS
from partrain.packs.layers import LAYERS, OneByOne
from partrain.packs.member_modules import MemberModules
from partrain.packs.member_rngs import MemberRngs
from partrain.packs.stacked_parameters import StackedParameters

_ARITHMETIC = frozenset((operator.add, operator.iadd, operator.mul, operator.sub, torch.add, torch.mul, torch.sub))


# ---- What networks must have in common.


def structure(segment: fx.GraphModule) -> Hashable | None:
    """Return what networks must have in common to be stacked: layers, their connections, shapes of all tensors.

    Names do not matter, so that segments from different depths of a network can be stacked.

    Returns:
        A key that equal structures share, or None if modules share weights. A stack would give each its own.
    """
    unique, all_uses = (dict(segment.named_parameters(remove_duplicate=remove)) for remove in (True, False))
    if len(unique) < len(all_uses):
        return None
    numbers = {node: number for number, node in enumerate(segment.graph.nodes)}
    return tuple(_describe(segment, node, numbers) for node in segment.graph.nodes)


def _describe(segment: fx.GraphModule, node: fx.Node, numbers: dict[fx.Node, int]) -> Hashable:
    """Return what a node computes, and from which nodes, which are given by their numbers."""
    arguments = repr(fx.map_arg((node.args, node.kwargs), lambda other: numbers[other]))
    if node.op == "call_module":
        module = segment.get_submodule(str(node.target))
        return "module", type(module), _stacking_key(module) or repr(module), _describe_tensors(module), arguments
    if node.op == "get_attr":
        tensor = _get_tensor(segment, str(node.target))
        return "tensor", tuple(tensor.shape), tensor.dtype, tensor.requires_grad
    if node.op in ("placeholder", "output"):
        return node.op, arguments
    return node.op, node.target, arguments


def _stacking_key(module: nn.Module) -> tuple[Any, ...] | None:
    """Return the settings that modules must share to be stacked, or None if `module` cannot be stacked."""
    return LAYERS[type(module)].stacking_key(module) if type(module) in LAYERS else None


def _describe_tensors(module: nn.Module) -> tuple[Any, ...]:
    """Return name, shape, dtype and trainability of all parameters and buffers of a module."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return tuple((name, tuple(tensor.shape), tensor.dtype, tensor.requires_grad) for name, tensor in tensors)


def _get_tensor(segment: fx.GraphModule, name: str) -> Tensor:
    """Return the parameter or buffer of a network with the dotted name `name`."""
    owner, _, attribute = name.rpartition(".")
    return getattr(segment.get_submodule(owner), attribute)


# ---- The stacked network.


def stack_networks(
    networks: Sequence[fx.GraphModule], parameters: StackedParameters, rngs: MemberRngs
) -> fx.GraphModule:
    """Return networks of equal `structure` as one module, which maps [M, batch, ...] to [M, batch, ...].

    Args:
        networks: The networks of M trainings.
        parameters: Their stacked parameters, which the module computes with.
        rngs: The random generators of the trainings.
    """
    layers, graph = nn.ModuleDict(), fx.Graph()
    factory = _LayerFactory(networks, parameters, rngs)
    copies: dict[fx.Node, fx.Node] = {}

    # The graph of the first network is copied node by node. Each node that computes becomes a call of a stacked layer:
    #   x -> fc1 -> relu -> output     becomes     values -> layer1 -> layer2 -> output
    for number, nodes in enumerate(zip(*(network.graph.nodes for network in networks), strict=True)):
        node = nodes[0]
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda other: copies[other])
        if node.op == "placeholder":
            copies[node] = graph.placeholder("values")
        elif node.op == "output":
            graph.output(args[0])
        else:
            name = f"layer{number}"
            layers[name] = factory.make(nodes)
            copies[node] = graph.call_module(name, args, kwargs)
    return fx.GraphModule(layers, graph, class_name="Unified")


class _LayerFactory:
    """A factory of stacked layers for corresponding nodes of M networks.

    Args:
        networks: The networks.
        parameters: Their stacked parameters.
        rngs: The random generators of the trainings.
    """

    def __init__(self, networks: Sequence[fx.GraphModule], parameters: StackedParameters, rngs: MemberRngs) -> None:
        self._networks, self._parameters, self._rngs = networks, parameters, rngs
        self._num_uses = Counter(str(node.target) for node in networks[0].graph.nodes if node.op == "call_module")

    def make(self, nodes: Sequence[fx.Node]) -> nn.Module:
        """Return the layer that computes a node of each network."""
        first = nodes[0]
        if first.op == "call_module":
            return self._make_module(nodes)
        if first.op == "get_attr":
            return self._make_attribute(nodes)
        return _StackedFunction(first, len(self._networks), self._rngs)

    def _make_module(self, nodes: Sequence[fx.Node]) -> nn.Module:
        """Return the stacked layer of the modules that the nodes call, or one that calls them one by one."""
        modules = [network.get_submodule(str(node.target)) for network, node in zip(self._networks, nodes, strict=True)]
        # The gradients of a module that is used twice have to be added up, which autograd does.
        is_used_once = self._num_uses[str(nodes[0].target)] == 1
        if is_used_once and _stacking_key(modules[0]) is not None:
            return LAYERS[type(modules[0])](MemberModules(modules, self._parameters, self._rngs))
        self._parameters.link_gradients(modules)
        return OneByOne(modules, self._rngs)

    def _make_attribute(self, nodes: Sequence[fx.Node]) -> nn.Module:
        """Return the layer that gives the tensors that the nodes read by name."""
        owners = [
            network.get_submodule(str(node.target).rpartition(".")[0])
            for network, node in zip(self._networks, nodes, strict=True)
        ]
        name = str(nodes[0].target).rpartition(".")[2]
        return _StackedAttribute(MemberModules(owners, self._parameters, self._rngs), name)


class _StackedFunction(nn.Module):
    """A function of the graph, called once if it treats all numbers alike, and else for one training after another.

    Args:
        node: The node that calls a function or a method of a tensor.
        count: The number M of trainings.
        rngs: The random generators of the trainings.
    """

    def __init__(self, node: fx.Node, count: int, rngs: MemberRngs) -> None:
        super().__init__()
        target: Any = node.target
        is_method = node.op == "call_method"
        name = target if is_method else getattr(target, "__name__", "")
        self.call = (lambda value, *args, **kwargs: getattr(value, target)(*args, **kwargs)) if is_method else target
        self.is_flatten = name == "flatten"
        self.is_activation = name in ACTIVATION_FUNCTIONS
        self.is_arithmetic = not is_method and target in _ARITHMETIC
        self.is_item = target is operator.getitem
        self.one_by_one = OneByOne([self.call] * count, rngs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the function's result, whose tensors are [M, ...]."""
        if self._treats_all_numbers_alike(args):
            return self.call(*args, **kwargs)
        if self.is_flatten and args[1:] == (1,) and not kwargs:
            return args[0].flatten(2)
        return self.one_by_one(*args, **kwargs)

    def _treats_all_numbers_alike(self, args: Sequence[Any]) -> bool:
        """Return whether the function can be called with stacked tensors.

        Tensors of fewer dimensions would be broadcast over the wrong one, and `getitem` of a tensor would pick from M.
        """
        if self.is_activation or (self.is_item and isinstance(args[0], tuple | list)):
            return True
        num_dims = {value.ndim for value in args if isinstance(value, Tensor)}
        return self.is_arithmetic and len(num_dims) == 1


class _StackedAttribute(nn.Module):
    """A parameter or buffer that the graph reads by name, of all trainings [M, *shape].

    Args:
        members: The modules that own the tensor.
        name: The tensor's name in them.
    """

    def __init__(self, members: MemberModules, name: str) -> None:
        super().__init__()
        is_parameter = isinstance(getattr(members.modules[0], name), nn.Parameter)
        buffer = None if is_parameter else members.stack_buffer(name)
        self.get = members.stack_parameter(name) if is_parameter else lambda: buffer

    def forward(self) -> Any:
        """Return the tensor [M, *shape]."""
        return self.get()
