"""What bf16 autocast and torch.compile give: samples per second of segments in partrain's loop, against fp32 eager.

Both halves (K = 2) of the 6-layer network and of the small convolutional one, in turn, after the compiler has run; its
time is given apart. Where there is no C++ compiler, torch.compile is left out on the CPU.

    python experiments/benchmarks/precision_compile.py
    python experiments/benchmarks/precision_compile.py --networks mlp --repetitions 3 --seconds 1
"""

import shutil
import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch
from measuring import alternating, machine, parser, ratio, write
from segment_throughput import make_training, partrain_rate, timed

from partrain.data import DataSettings, prepare_data
from partrain.networks import CNNSettings, MLPSettings, NetworkSettings
from partrain.settings import RunSettings
from partrain.training.optimization import TrainSettings

NETWORKS: dict[str, NetworkSettings] = {"mlp": MLPSettings(), "mlp2048": MLPSettings(width=2048), "cnn": CNNSettings()}
PREPARATION = 0.5  # seconds of training before the clock starts


def main() -> None:
    options = parser(__doc__, repetitions=5)
    options.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    options.add_argument("--batch", type=int, default=256)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--seconds", type=float, default=3.0, help="of every variant in every repetition")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    about, dataset = machine(), prepare_data(DataSettings())
    variants = [("fp32", False), ("bf16", False)]
    notes = [f"Batch {given.batch}, {given.threads} thread(s)."]
    if any(shutil.which(compiler) for compiler in ("g++", "clang++", "c++")):
        variants += [("fp32", True), ("bf16", True)]
    else:
        notes.append("torch.compile left out: there is no C++ compiler here.")
    rows, raw = [], []
    for network in given.networks:
        for index in (0, 1):
            with tempfile.TemporaryDirectory() as folder:
                trainings, first = {}, {}
                for precision, compiled in variants:
                    name = f"{precision}{', compiled' if compiled else ''}"
                    train = TrainSettings(
                        epochs=1000,
                        batch_size=given.batch,
                        precision=precision,
                        compile=compiled,
                        early_stop=0,
                        checkpoint_seconds=1e9,
                    )
                    settings = RunSettings(network=NETWORKS[network], train=train)
                    trainings[name] = made = make_training(settings, index, dataset, Path(folder) / name)
                    first[name] = timed(partial(partrain_rate, made, PREPARATION)) - PREPARATION
                sides = {name: partial(partrain_rate, made, given.seconds) for name, made in trainings.items()}
                measured = alternating(sides, given.repetitions)
            for name, rates in measured.items():
                rows.append(
                    {
                        "network": network,
                        "segment": index,
                        "variant": name,
                        "samples/s": statistics.median(rates),
                        "against fp32": ratio(rates, measured["fp32"]),
                        "before the first step, s": max(0.0, first[name]),
                    }
                )
                print(rows[-1], flush=True)
            raw.append({"network": network, "segment": index, **measured})
    write(given.out, "precision_compile", "bf16 and torch.compile against fp32", rows, about, notes, raw)


if __name__ == "__main__":
    main()
