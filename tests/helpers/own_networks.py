"""Networks and a label family as a user may write them, some of which are wrong. Tests name them as module:name."""

import torch
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensor


class Thirds:
    """A label family of random codes of -1, 0 and 1."""

    def codes(self, num_classes: int, size: int, generator: torch.Generator) -> Tensor:
        """Return the codes [num_classes, size]."""
        return torch.randint(-1, 2, (num_classes, size), generator=generator).float()


def plain() -> nn.Module:
    """Return two linear layers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 5))


class _Overflow(nn.Module):
    """A module whose output is infinite."""

    def forward(self, values: Tensor) -> Tensor:
        return values * 1e30 * 1e30


def overflowing() -> nn.Module:
    """Return a network whose first segment has an infinite output."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), _Overflow(), nn.ReLU(), nn.Linear(16, 5))


def break_down(values: Tensor) -> Tensor:
    """Return the doubled values while shapes are computed, and raise an error on real values."""
    if isinstance(values, FakeTensor):
        return values * 2
    raise RuntimeError("out of coffee")


fx.wrap("break_down")


class _Breakdown(nn.Module):
    """A module that fails on real values."""

    def forward(self, values: Tensor) -> Tensor:
        return break_down(values)


def breaking() -> nn.Module:
    """Return a network whose first segment raises an error that no setting causes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), _Breakdown(), nn.ReLU(), nn.Linear(16, 5))


def record(images: Tensor, file: str) -> Tensor:
    """Return the images, and add the first pixel of each to a file if gradients are computed."""
    if torch.is_grad_enabled() and not isinstance(images, FakeTensor):
        with open(file, "a") as out:
            out.writelines(f"{pixel}\n" for pixel in images[:, 0, 0, 0].tolist())
    return images * 1


fx.wrap("record")


class _Recorder(nn.Module):
    """A module that records the images that it trains on."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def forward(self, images: Tensor) -> Tensor:
        return record(images, self.file)


def recording(file: str) -> nn.Module:
    """Return a network for images of 4×4 pixels that records those that it trains on in a file."""
    return nn.Sequential(_Recorder(file), nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5))


class _Attention(nn.Module):
    """A network that takes the eight rows of an image as tokens, adds positions, and lets them attend to one another."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(8, 8) * 0.1)
        self.norm = nn.LayerNorm(8)
        # Without biases: the gradient of the keys' bias is only rounding error, which Adam scales up to a full step.
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, bias=False)
        self.classifier = nn.Linear(64, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = images.flatten(1, 2) + self.position
        normed = self.norm(tokens)
        attended, _ = self.attention(normed, normed, normed, need_weights=False)
        return self.classifier((tokens + attended).flatten(1))


def attending() -> nn.Module:
    """Return a network with attention."""
    return _Attention()


class _Unusual(nn.Module):
    """A network of rare modules and functions: one module is used twice, one draws random numbers, one is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 16)
        self.twice = nn.Linear(16, 16)
        self.mixed = nn.Bilinear(16, 16, 16)
        self.activation = nn.PReLU()
        self.noise = nn.AlphaDropout(0.2)
        self.frozen = nn.Linear(16, 16).requires_grad_(requires_grad=False)
        self.last = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.activation(self.first(images.view(images.shape[0], -1)))
        hidden = self.twice(torch.sigmoid(self.twice(hidden)))
        hidden = self.noise(self.mixed(hidden, hidden * 0.5) + hidden)
        return self.last(self.frozen(hidden).roll(1, dims=1))


def unusual() -> nn.Module:
    """Return a network of rare modules and functions."""
    return _Unusual()


def normed() -> nn.Module:
    """Return a network with batch normalisation after a layer without biases, whose gradient would be rounding error."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32, bias=False), nn.BatchNorm1d(32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 5)
    )


class _Residual(nn.Module):
    """A residual block of two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, values: Tensor) -> Tensor:
        values = values.flatten(1)
        return values + torch.relu(self.second(torch.relu(self.first(values))))


def one_block() -> nn.Module:
    """Return a network whose first two layers are inside a residual block, which cannot be cut."""
    return nn.Sequential(_Residual(), nn.Linear(64, 5))


def tied() -> nn.Module:
    """Return a network whose second and fourth layer share a weight."""
    first, second = nn.Linear(32, 32), nn.Linear(32, 32)
    second.weight = first.weight
    layers = [nn.Linear(64, 32), nn.ReLU(), first, nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), second, nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5))


def frozen() -> nn.Module:
    """Return a network whose first two layers are not trained."""
    layers = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
    for layer in layers:
        layer.requires_grad_(requires_grad=False)
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))


class _Limited(nn.Module):
    """A layer that changes nothing, works for `limit` steps only, and assigns new tensors to one of its buffers.

    Layers of all limits can be stacked, since a limit is a buffer.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("limit", torch.full((), float(limit)))

    def forward(self, values: Tensor) -> Tensor:
        if isinstance(values, FakeTensor):
            return values * 1
        self.calls = self.calls + 1
        if self.calls > self.limit:
            raise RuntimeError("out of coffee")
        return values


def _with_limit(limit: int) -> nn.Module:
    """Return a network with batch normalisation, dropout and a layer of limited use; without a bias as `normed` is."""
    layers = [nn.Linear(64, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), _Limited(limit)]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(16, 5))


def limited_to_2() -> nn.Module:
    """Return a network that fails at the third step of its training."""
    return _with_limit(2)


def unlimited() -> nn.Module:
    """Return a network of the same shape as `limited_to_2`, which does not fail."""
    return _with_limit(1_000_000)
