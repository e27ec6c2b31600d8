"""Settings of small trainings, for tests that train them in shards."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from partrain.launch.settings import Local
from partrain.networks import MLP
from partrain.partition.plan import PartitionSettings
from partrain.settings import RunSettings
from partrain.shards.host import HostMemory
from partrain.shards.preparation import ModelPreparer
from partrain.shards.profiler import profile_step
from partrain.shards.settings import Shards
from partrain.shards.trials import Preparation, T, finish_here
from partrain.shards.worker_pool import worker_settings
from partrain.training.optimization import TrainSettings

TRAIN = TrainSettings(epochs=2, batch_size=64, lr=0.01, precision="fp64", early_stop=0)
TIGHT = 300_000 / 2**30
"""A device's budget in GiB that the network of `settings_of` does not fit into as one shard."""
ROOM = 500_000
"""A device's budget in bytes that each layer of the tests' networks fits into."""

VARIED: list[dict[str, Any]] = [
    {"seed": 0},
    {"seed": 1, "train": replace(TRAIN, optimizer="adam", lr=0.003, weight_decay=0.1)},
    {"seed": 2, "train": replace(TRAIN, optimizer="sgd", momentum=0.9, warmup=0.5)},
    {"seed": 0, "train": replace(TRAIN, optimizer="sgd", momentum=0.0, epochs=1)},
]
"""Changed settings of four trainings, which differ in optimiser, schedule, number of epochs and order of the data."""


def settings_of(**changed: Any) -> RunSettings:
    """Return the settings of a small end-to-end training on the CPU, with some of them changed."""
    defaults: dict[str, Any] = {
        "network": MLP(depth=4, width=32),
        "train": TRAIN,
        "launch": Local(device="cpu", threads=1),
        "partition": PartitionSettings(segments=1),
    }
    return RunSettings(**{**defaults, **changed})


def make_preparer(settings: Shards, host: HostMemory) -> ModelPreparer:
    """Return a preparer for a worker on the CPU."""
    (worker,) = worker_settings(["cpu"], settings)
    return ModelPreparer(settings, worker, host)


def finish_on_cpu(preparation: Preparation[T], settings: Shards) -> T:
    """Return what a preparation returns, with its trials computed in this process."""
    (worker,) = worker_settings(["cpu"], settings)
    profile = partial(profile_step, device=torch.device("cpu"), uses_separate_buffers=worker.uses_separate_buffers)
    return finish_here(preparation, profile)
