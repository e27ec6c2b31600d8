"""A trained segment's outputs over the training set, in a mapped file: what the sequential schedule feeds the next."""

from collections.abc import Callable
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from partrain.data.batches import Batch
from partrain.errors import UserError
from partrain.storage import checkpoint

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
_CHUNK = 1024


def open_outputs(path: Path) -> Tensor:
    """The outputs [images, *shape] in `path`, mapped: read from disk as they are used, in memory once per machine.

    Raises:
        ValueError: there are none, or the file is cut short.
    """
    try:
        header = checkpoint.read_json(path.with_suffix(".json"))
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: the segment to the left has not stored its outputs; resume the run"
        ) from None
    shape, dtype = header["shape"], _DTYPES[header["dtype"]]
    expected = prod(shape) * dtype.itemsize
    found = path.stat().st_size if path.exists() else 0
    if found != expected:
        raise checkpoint.DamagedFile(f"{path} has {found} bytes, expected {expected}; delete it and resume the run")
    return torch.from_file(str(path), shared=False, size=prod(shape), dtype=dtype).view(shape)


Sample = Callable[[Batch], tuple[Tensor, Tensor]]


def store_outputs(path: Path, module: nn.Module, sample: Sample, num_images: int, device: torch.device) -> None:
    """Run `module` in eval mode over all training images, in their own order, and write what comes out."""

    header: dict[str, object] = {}
    weights = next(module.parameters()).dtype

    def fill(beside: Path) -> None:
        # written, not mapped: on a full disk a write is an error, a page of a mapping that has no room kills the process
        with beside.open("wb") as file:
            for first in range(0, num_images, _CHUNK):
                indices = torch.arange(first, min(first + _CHUNK, num_images), device=device)
                features, _ = sample(Batch(0, indices))
                output = module(features.to(weights)).cpu().contiguous()
                header.update(shape=[num_images, *output.shape[1:]], dtype=str(output.dtype).removeprefix("torch."))
                file.write(output.view(-1).view(torch.uint8).numpy())

    module.eval()
    with torch.inference_mode():
        checkpoint.write_atomic(path, fill)
    checkpoint.write_json(path.with_suffix(".json"), header)
    module.train()
