"""The activations that networks of ours choose from, and how one is recognised in any network."""

from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
}

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

ACTIVATION_FUNCTIONS = frozenset(
    ("relu", "relu_", "relu6", "gelu", "silu", "tanh", "leaky_relu", "elu", "selu", "sigmoid", "hardswish", "mish")
)
