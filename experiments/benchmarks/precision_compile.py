"""Samples per second of segments in partrain's loop with bf16 autocast and torch.compile, over those with fp32 alone.

Both halves (K = 2) of the 6-layer network and of the small convolutional one are trained in turn, after the compiler
has run. Its seconds are given apart. Without a C++ compiler, torch.compile is left out on the CPU.

    python experiments/benchmarks/precision_compile.py
    python experiments/benchmarks/precision_compile.py --networks mlp --repetitions 3 --seconds 1
"""

import argparse
import itertools
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import Report, machine_facts, make_parser, measure_in_turn, median_ratio, seconds_of
from segment_throughput import make_training, partrain_rate

from partrain.data import Dataset, prepare_data
from partrain.data.settings import Glyphs
from partrain.networks import CNN, MLP, NetworkSettings
from partrain.settings import RunSettings
from partrain.training.optimization import TrainSettings

NETWORKS: dict[str, NetworkSettings] = {"mlp": MLP(), "mlp2048": MLP(width=2048), "cnn": CNN()}
WARM_UP = 0.5  # seconds of training before the clock starts


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to train: a precision, with or without torch.compile."""

    precision: str
    is_compiled: bool

    @property
    def name(self) -> str:
        """Return the name in the table."""
        return f"{self.precision}, compiled" if self.is_compiled else self.precision


@dataclass(frozen=True)
class Measurement:
    """The results of one segment, by the name of the variant.

    Attributes:
        rates: Samples per second in each repetition.
        startup_seconds: Seconds before the first step.
    """

    rates: dict[str, list[float]]
    startup_seconds: dict[str, float]


def main() -> None:
    """Measure both segments of each network, and write the report."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    machine, dataset = machine_facts(), prepare_data(Glyphs())
    notes = [f"Batch {options.batch}, {options.threads} thread(s)."]
    has_compiler = any(shutil.which(compiler) for compiler in ("g++", "clang++", "c++"))
    if not has_compiler:
        notes.append("torch.compile left out: there is no C++ compiler here.")
    variants = make_variants(with_compiled=has_compiler)

    rows, raw = [], []
    for network, index in itertools.product(options.networks, (0, 1)):
        measured = measure_segment(make_settings(network, variants, options.batch), index, dataset, options)
        for variant in variants:
            rows.append({"network": network, "segment": index, **make_cells(variant.name, measured)})
            print(rows[-1], flush=True)
        raw.append({"network": network, "segment": index, **measured.rates})
    title = "bf16 and torch.compile against fp32"
    Report(name="precision_compile", title=title, rows=rows, machine=machine, notes=notes, raw=raw).write(options.out)


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser(__doc__, repetitions=5)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each variant trains in each repetition")
    return parser.parse_args()


def make_variants(*, with_compiled: bool) -> list[Variant]:
    """Return fp32 and bf16, and then the same compiled."""
    variants = [Variant(precision=precision, is_compiled=False) for precision in ("fp32", "bf16")]
    if with_compiled:
        variants += [Variant(precision=precision, is_compiled=True) for precision in ("fp32", "bf16")]
    return variants


def make_settings(network: str, variants: Sequence[Variant], batch_size: int) -> dict[str, RunSettings]:
    """Return the settings of each variant's training, by the variant's name."""
    trains = {
        variant.name: TrainSettings(
            epochs=1000,
            batch_size=batch_size,
            precision=variant.precision,
            compile=variant.is_compiled,
            early_stop=0,
            checkpoint_seconds=1e9,
        )
        for variant in variants
    }
    return {name: RunSettings(network=NETWORKS[network], train=train) for name, train in trains.items()}


def measure_segment(
    settings: Mapping[str, RunSettings], index: int, dataset: Dataset, options: argparse.Namespace
) -> Measurement:
    """Train segment `index` in all variants, in turn."""
    trainings, startup_seconds = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, variant_settings in settings.items():
            trainings[name] = training = make_training(variant_settings, index, dataset, Path(folder) / name)
            startup_seconds[name] = max(0.0, seconds_of(partial(partrain_rate, training, WARM_UP)) - WARM_UP)
        sides = {name: partial(partrain_rate, training, options.seconds) for name, training in trainings.items()}
        rates = measure_in_turn(sides, options.repetitions)
    return Measurement(rates, startup_seconds)


def make_cells(name: str, measured: Measurement) -> dict[str, Any]:
    """Return a variant's cells of the table."""
    return {
        "variant": name,
        "samples/s": statistics.median(measured.rates[name]),
        "against fp32": median_ratio(measured.rates[name], measured.rates["fp32"]),
        "before the first step, s": measured.startup_seconds[name],
    }


if __name__ == "__main__":
    main()
