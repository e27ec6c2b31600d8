"""How codes lie on a boundary: as they are on vectors, smoothly on feature maps, in every token of a sequence."""

from collections.abc import Sequence
from math import prod

import torch.nn.functional as F
from torch import Tensor


def code_grid(shape: Sequence[int], num_classes: int) -> int:
    """Along each side of a feature map [channels, height, width], how many cells a code has values for.

    The coarsest raster of at least 2×2 on which every class can have a direction of its own. A convolution can hardly
    put arbitrary content at every pixel; it can say something smooth.
    """
    channels, height, width = shape
    grid = 2
    while channels * grid**2 <= num_classes:
        grid += 1
    return max(1, min(grid, height, width))


def code_size(shape: Sequence[int], num_classes: int) -> int:
    """Values of a code at a boundary of `shape` (per image): vector, tokens [tokens, features] or feature map."""
    if len(shape) == 3:
        return shape[0] * code_grid(shape, num_classes) ** 2
    return shape[-1]


def spread(codes: Tensor, shape: Sequence[int], num_classes: int) -> Tensor:
    """Codes [classes, code_size] laid out over a boundary of `shape`, flattened: [classes, product of shape]."""
    if len(shape) == 3:
        grid = code_grid(shape, num_classes)
        cells = codes.unflatten(1, (shape[0], grid, grid))
        return F.interpolate(cells, tuple(shape[1:]), mode="bilinear", align_corners=True).flatten(1)
    return codes.repeat(1, prod(shape[:-1]))
