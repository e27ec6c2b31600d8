"""The layout of codes on a boundary: as they are on vectors, smooth on feature maps, repeated in every token."""

from collections.abc import Sequence
from math import prod

import torch.nn.functional as F
from torch import Tensor


def code_size(shape: Sequence[int], num_classes: int) -> int:
    """Return how many values a code has at a boundary.

    Args:
        shape: The shape per image: a vector [features], tokens [tokens, features] or a feature map
            [channels, height, width].
        num_classes: Number of classes.
    """
    if len(shape) == 3:
        return shape[0] * code_grid(shape, num_classes) ** 2
    return shape[-1]


def code_grid(shape: Sequence[int], num_classes: int) -> int:
    """Return how many cells a code has along each side of a feature map [channels, height, width].

    The grid is the coarsest, of at least 2x2, on which every class can have a direction of its own. A convolution can
    hardly produce arbitrary values at every pixel, but it can produce smooth ones.
    """
    channels, height, width = shape
    grid = 2
    while channels * grid**2 <= num_classes:
        grid += 1
    return max(1, min(grid, height, width))


def lay_out_codes(codes: Tensor, shape: Sequence[int], num_classes: int) -> Tensor:
    """Return codes [classes, code_size] over a whole boundary, flattened: [classes, product of shape].

    On a feature map the cells of the grid are interpolated bilinearly.
    """
    if len(shape) == 3:
        grid = code_grid(shape, num_classes)
        cells = codes.unflatten(1, (shape[0], grid, grid))
        return F.interpolate(cells, tuple(shape[1:]), mode="bilinear", align_corners=True).flatten(1)
    return codes.repeat(1, prod(shape[:-1]))
