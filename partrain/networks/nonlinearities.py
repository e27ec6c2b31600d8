"""Activations: those that partrain's own networks offer, and those that are recognised in any traced network."""

from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
}
"""The activations that `network.activation` offers, by name."""

ACTIVATION_MODULES = (
    *ACTIVATIONS.values(),
    nn.ReLU6,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.PReLU,
    nn.Sigmoid,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Hardtanh,
    nn.Mish,
    nn.Softplus,
)
"""The modules that count as an activation."""

ACTIVATION_FUNCTIONS = frozenset(
    ("relu", "relu_", "relu6", "gelu", "silu", "tanh", "leaky_relu", "elu", "selu", "sigmoid", "hardswish", "mish")
)
"""The names of the functions and methods that count as an activation."""
