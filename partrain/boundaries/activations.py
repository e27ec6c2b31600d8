"""Stored activations: a trained segment's outputs over the training set, in a file that the next segment maps.

The sequential schedule feeds them to the segment on the right.
"""

from collections.abc import Callable
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from partrain.data.batches import Batch
from partrain.errors import UserError
from partrain.storage import checkpoint

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
_IMAGES_AT_ONCE = 1024

Sample = Callable[[Batch], tuple[Tensor, Tensor]]


def open_outputs(path: Path) -> Tensor:
    """Return the outputs [images, *shape] in `path`, mapped: read from disk as used, in memory once per machine.

    Raises:
        UserError: If there is no such file, or it is cut short.
    """
    try:
        header = checkpoint.read_json(path.with_suffix(".json"))
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: the segment to the left has not stored its outputs. Resume the run."
        ) from None
    shape, dtype = header["shape"], _DTYPES[header["dtype"]]
    expected = prod(shape) * dtype.itemsize
    num_bytes = path.stat().st_size if path.exists() else 0
    if num_bytes != expected:
        raise checkpoint.DamagedFile(
            f"{path} is damaged: it has {num_bytes} bytes, expected {expected}. Delete it and resume the run."
        )
    return torch.from_file(str(path), shared=False, size=prod(shape), dtype=dtype).view(shape)


def store_outputs(path: Path, module: nn.Module, sample: Sample, num_images: int, device: torch.device) -> None:
    """Write the outputs of `module` in eval mode for all training images, in their own order.

    Args:
        path: The file of the outputs. Its shape and type go to a JSON file beside it.
        module: The trained segment; it is left in train mode.
        sample: Returns the segment's features for a batch.
        num_images: Number of training images.
        device: The device of the module.
    """
    weights = next(module.parameters()).dtype
    header: dict[str, object] = {}

    def write_values(temporary: Path) -> None:
        # A full disk makes a write fail, but would kill a process that fills a mapping.
        with temporary.open("wb") as file:
            for first in range(0, num_images, _IMAGES_AT_ONCE):
                indices = torch.arange(first, min(first + _IMAGES_AT_ONCE, num_images), device=device)
                features, _ = sample(Batch(0, indices))
                output = module(features.to(weights)).cpu().contiguous()
                header.update(shape=[num_images, *output.shape[1:]], dtype=str(output.dtype).removeprefix("torch."))
                file.write(output.view(-1).view(torch.uint8).numpy())

    module.eval()
    with torch.inference_mode():
        checkpoint.write_atomic(path, write_values)
    checkpoint.write_json(path.with_suffix(".json"), header)
    module.train()
