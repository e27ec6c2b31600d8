"""Peak memory of each segment's process against its share of the network: 6 layers of width 4096, K = 2, 3, 6.

The peak is what `results.json` says: resident memory (VmHWM of /proc) above the same process right after imports. The
share comes from the plan: 16 bytes per parameter (weight, gradient, AdamW's two moments), and per image of a batch the
activations kept for the backward pass, the segment's input among them. A small network (`--control` wide) trained in the
same way shows what any segment costs before its size matters (code of the libraries that is read from disk at first use,
buffers, the mapped images); the last column is without that.

    python experiments/benchmarks/segment_memory.py
    python experiments/benchmarks/segment_memory.py --width 1024 --segments 2 3
"""

import statistics
import tempfile
from math import prod
from pathlib import Path
from typing import Any

from measuring import machine, parser, write

import partrain
from partrain.data import DataSettings
from partrain.launch.settings import LaunchSettings
from partrain.networks import MLPSettings
from partrain.partition.plan import PartitionSettings
from partrain.storage import checkpoint
from partrain.training.optimization import TrainSettings

MB = 1e6


def share(segment: dict[str, Any], batch_size: int) -> float:
    """Bytes that the segment of a plan is due."""
    # the plan counts a tensor kept on both sides of a cut once, on the left
    entering = 4 * prod(segment["input_shape"]) if segment["index"] else 0
    return 16 * segment["parameters"] + batch_size * (segment["activation_bytes"] + entering)


def peaks(width: int, segments: int, batch_size: int, images: int, seed: int) -> list[tuple[float, float, float]]:
    """Per segment, in MB: share, peak memory, samples per second."""
    settings = partrain.RunSettings(
        seed=seed,
        data=DataSettings(limit_train=images, limit_test=1024),
        network=MLPSettings(width=width),
        partition=PartitionSettings(segments=segments),
        train=TrainSettings(epochs=1, batch_size=batch_size, precision="fp32"),
        launch=LaunchSettings(threads=1),
    )
    with tempfile.TemporaryDirectory() as folder:
        found = partrain.run(settings, folder, show=False)["segments"]
        plan = checkpoint.read_json(Path(folder) / "plan.json")["segments"]
    return [
        (share(planned, batch_size) / MB, each["peak_memory_bytes"] / MB, each["samples_per_second"])
        for planned, each in zip(plan, found, strict=True)
    ]


def main() -> None:
    options = parser(__doc__, repetitions=3)
    options.add_argument("--width", type=int, default=4096)
    options.add_argument("--segments", type=int, nargs="+", default=[2, 3, 6])
    options.add_argument("--batch", type=int, default=256)
    options.add_argument("--steps", type=int, default=32)
    options.add_argument("--control", type=int, default=64, help="width of the small network")
    given = options.parse_args()
    about, images, rows, raw = machine(), given.batch * given.steps, [], []
    small = [peaks(given.control, 2, given.batch, images, seed) for seed in range(given.repetitions)]
    fixed = [statistics.median(run[index][1] - run[index][0] for run in small) for index in (0, 1)]
    for segments in given.segments:
        runs = [peaks(given.width, segments, given.batch, images, seed) for seed in range(given.repetitions)]
        raw.append({"segments": segments, "runs": runs, "control": small})
        for index, measured in enumerate(zip(*runs, strict=True)):
            due, peak, rate = (statistics.median(values) for values in zip(*measured, strict=True))
            rows.append(
                {
                    "K": segments,
                    "segment": index,
                    "share, MB": f"{due:.1f}",
                    "peak, MB": f"{peak:.1f}",
                    "any segment's, MB": f"{fixed[min(index, 1)]:.1f}",
                    "peak / share": peak / due,
                    "without any segment's": (peak - fixed[min(index, 1)]) / due,
                    "samples/s": rate,
                }
            )
            print(rows[-1], flush=True)
    notes = [
        f"Width {given.width}, batch {given.batch}, fp32, AdamW, {given.steps} steps; the aim is 1.10 at most.",
    ]
    title = "Peak memory of a segment's process against its share of the network"
    write(given.out, "segment_memory", title, rows, about, notes, raw)


if __name__ == "__main__":
    main()
