"""Stored activations: a trained segment's outputs over the training set, in a file that the next segment maps.

The sequential schedule feeds them to the segment on the right. The file is of safetensors' format, whose header, with
shape and type, is in the same file. It is written batch by batch, which the library cannot do.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from partrain.data.batches import Batch
from partrain.errors import UserError
from partrain.storage import checkpoint

_TENSOR = "outputs"
_TYPE_CODES = {torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}
_IMAGES_AT_ONCE = 1024

Sample = Callable[[Batch], tuple[Tensor, Tensor]]


def open_outputs(path: Path) -> Tensor:
    """Return the outputs [images, *shape] in `path`, mapped: read from disk as used, in memory once per machine.

    Raises:
        UserError: If there is no such file, or it is cut short or otherwise damaged.
    """
    if not path.exists():
        raise UserError(f"{path} is missing: the segment to the left has not stored its outputs. Resume the run.")
    try:
        with safe_open(path, framework="pt") as file:
            outputs: Tensor = file.get_tensor(_TENSOR)
    except SafetensorError as error:
        raise checkpoint.DamagedFile(f"{path} is damaged ({error}). Delete it and resume the run.") from None
    return outputs


def store_outputs(path: Path, module: nn.Module, sample: Sample, num_images: int, device: torch.device) -> int:
    """Write the outputs of `module` in eval mode for all training images, in their own order.

    Args:
        path: The file of the outputs.
        module: The trained segment; it is left in train mode.
        sample: Returns the segment's features for a batch.
        num_images: Number of training images.
        device: The device of the module.

    Returns:
        The size of all outputs, in bytes.
    """
    weights = next(module.parameters()).dtype
    num_bytes = 0

    def outputs() -> Iterator[Tensor]:
        for first in range(0, num_images, _IMAGES_AT_ONCE):
            indices = torch.arange(first, min(first + _IMAGES_AT_ONCE, num_images), device=device)
            features, _ = sample(Batch(0, indices))
            yield module(features.to(weights)).cpu().contiguous()

    def write_values(temporary: Path) -> None:
        nonlocal num_bytes
        # A full disk makes a write fail, but would kill a process that fills a mapping.
        with temporary.open("wb") as file:
            for output in outputs():
                if num_bytes == 0:
                    file.write(_header([num_images, *output.shape[1:]], output.dtype))
                num_bytes += file.write(output.view(-1).view(torch.uint8).numpy().data)

    module.eval()
    with torch.inference_mode():
        checkpoint.write_atomic(path, write_values)
    module.train()
    return num_bytes


def _header(shape: Sequence[int], dtype: torch.dtype) -> bytes:
    """Return the header of a safetensors file with one tensor.

    It is the length of a JSON text in 8 bytes, and the text, filled up so that the values begin at a multiple of 8.
    """
    size = prod(shape) * dtype.itemsize
    entry = {"dtype": _TYPE_CODES[dtype], "shape": shape, "data_offsets": [0, size]}
    text = json.dumps({_TENSOR: entry}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
