"""How codes lie on a boundary: flat vectors as they are, feature maps by channel and coarse cell."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


class Layout:
    """The places of a code's values at a boundary of `shape` (per image), for `num_classes` classes.

    A vector [features] holds a code value per feature, tokens [tokens, features] the same code in every token. A feature
    map [channels, height, width] holds one per channel and cell of a `grid`×`grid` raster, the coarsest on which every
    class can have a direction of its own: a convolution can hardly put arbitrary content at every pixel, but it can
    set the mean of a channel over a part of the image.
    """

    def __init__(self, shape: Sequence[int], num_classes: int) -> None:
        self.shape = tuple(shape)
        self.grid = 1
        if len(self.shape) == 3:
            channels, height, width = self.shape
            while channels * self.grid**2 <= num_classes and self.grid < min(height, width):
                self.grid += 1
            self.size = channels * self.grid**2
        else:
            self.size = self.shape[-1]

    def gather(self, output: Tensor) -> Tensor:
        """Means over the places of each code value: [batch, *shape] -> [batch, size]."""
        if len(self.shape) == 3:
            if self.grid == 1:
                return output.mean(dim=(2, 3))
            return F.adaptive_avg_pool2d(output, self.grid).flatten(1)
        return output.flatten(1, -2).mean(dim=1) if len(self.shape) == 2 else output

    def spread(self, codes: Tensor) -> Tensor:
        """Code values at all their places: [batch, size] -> [batch, *shape]."""
        if len(self.shape) == 3:
            cells = codes.unflatten(1, (self.shape[0], self.grid, self.grid))
            return F.interpolate(cells, self.shape[1:], mode="nearest")
        if len(self.shape) == 2:
            return codes.unsqueeze(1).expand(-1, *self.shape)
        return codes
