"""Peak memory of each segment's process over its share of the network: 6 layers of width 4096, K = 2, 3, 6.

The peak is the one in `results.json`: resident memory (VmHWM of /proc) above the same process's right after its imports.
The share comes from the plan. It is 16 bytes per parameter (weight, gradient, AdamW's two moments) and, for each image of
a batch, the activations stored for the backward pass and the segment's input.

A small network (`--control` is its width), trained in the same way, shows the memory that any segment needs: code of the
libraries that is read from disk at first use, buffers, the mapped images. The last column is without it.

    python experiments/benchmarks/segment_memory.py
    python experiments/benchmarks/segment_memory.py --width 1024 --segments 2 3
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from measuring import Report, machine_facts, make_parser

import partrain
from partrain.data.settings import Glyphs
from partrain.launch.settings import Local
from partrain.networks import MLP
from partrain.partition.plan import PartitionSettings
from partrain.storage import checkpoint
from partrain.training.optimization import TrainSettings

MB = 1e6


class SegmentUsage(NamedTuple):
    """The memory and the speed of one segment.

    Attributes:
        share: Its share of the network, in MB.
        peak: Peak memory of its process, in MB.
        rate: Samples per second.
    """

    share: float
    peak: float
    rate: float


def main() -> None:
    """Measure all numbers of segments, and write the report."""
    options = parse_options()
    machine, rows, raw = machine_facts(), [], []
    control = measure_runs(options, options.control, 2)
    # The memory that any first, and any later, segment needs, in MB.
    overhead = [statistics.median(run[index].peak - run[index].share for run in control) for index in (0, 1)]
    for segments in options.segments:
        runs = measure_runs(options, options.width, segments)
        raw.append({"segments": segments, "runs": runs, "control": control})
        for index in range(segments):
            rows.append(make_row(segments, index, [run[index] for run in runs], overhead[min(index, 1)]))
            print(rows[-1], flush=True)
    settings = f"Width {options.width}, batch {options.batch}, fp32, AdamW, {options.steps} steps"
    Report(
        name="segment_memory",
        title="Peak memory of a segment's process against its share of the network",
        rows=rows,
        machine=machine,
        notes=[f"{settings}; the aim is 1.10 at most."],
        raw=raw,
    ).write(options.out)


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser(__doc__, repetitions=3)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--segments", type=int, nargs="+", default=[2, 3, 6])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--control", type=int, default=64, help="width of the small network")
    return parser.parse_args()


def measure_runs(options: argparse.Namespace, width: int, segments: int) -> list[list[SegmentUsage]]:
    """Train networks of this width, one for each repetition; return the usage of each run's segments."""
    return [measure_run(options, width, segments, seed) for seed in range(options.repetitions)]


def measure_run(options: argparse.Namespace, width: int, segments: int, seed: int) -> list[SegmentUsage]:
    """Train one network for one epoch, and return the usage of each segment."""
    settings = partrain.RunSettings(
        seed=seed,
        data=Glyphs(limit_train=options.batch * options.steps, limit_test=1024),
        network=MLP(width=width),
        partition=PartitionSettings(segments=segments),
        train=TrainSettings(epochs=1, batch_size=options.batch, precision="fp32"),
        launch=Local(threads=1),
    )
    with tempfile.TemporaryDirectory() as folder:
        results = partrain.run(settings, folder, show_progress=False)["segments"]
        plan = checkpoint.read_json(Path(folder) / "plan.json")["segments"]
    return [
        SegmentUsage(
            segment_share(planned, options.batch) / MB, result["peak_memory_bytes"] / MB, result["samples_per_second"]
        )
        for planned, result in zip(plan, results, strict=True)
    ]


def segment_share(segment: dict[str, Any], batch_size: int) -> int:
    """Return a segment's share of the network in bytes, given its part of plan.json."""
    # The plan counts a tensor that is stored on both sides of a cut once, on the left side.
    input_bytes = 4 * prod(segment["input_shape"]) if segment["index"] else 0
    return 16 * segment["parameters"] + batch_size * (segment["activation_bytes"] + input_bytes)


def make_row(segments: int, index: int, usages: Sequence[SegmentUsage], overhead: float) -> dict[str, Any]:
    """Return the table's row for segment `index`, from its usage in each repetition."""
    share, peak, rate = (statistics.median(values) for values in zip(*usages, strict=True))
    return {
        "K": segments,
        "segment": index,
        "share, MB": f"{share:.1f}",
        "peak, MB": f"{peak:.1f}",
        "any segment's, MB": f"{overhead:.1f}",
        "peak / share": peak / share,
        "without any segment's": (peak - overhead) / share,
        "samples/s": rate,
    }


if __name__ == "__main__":
    main()
