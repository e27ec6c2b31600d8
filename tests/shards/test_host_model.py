"""Tests of a model in the scheduler's process."""

from pathlib import Path

import pytest
import torch
from sharding import finish_on_cpu, make_preparer, settings_of
from trainings import write_tasks

from partrain.data import Dataset
from partrain.shards import host_model
from partrain.shards.host import HostMemory
from partrain.shards.host_model import HostModel
from partrain.shards.settings import Shards
from partrain.training.context import LocalContext
from partrain.training.segment import SegmentTraining


def test_initial_weights_are_made_with_a_workers_threads_each_time(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values that a decomposition makes depend on the threads, and a model without a checkpoint makes them again."""
    (task,) = write_tasks(tmp_path, small, [settings_of()])
    threads = []

    def load(*arguments: object, **keywords: object) -> SegmentTraining:
        threads.append(torch.get_num_threads())
        return SegmentTraining(*arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(host_model, "SegmentTraining", load)
    before = torch.get_num_threads()
    model = HostModel(task, "one", LocalContext(), threads=before + 2)
    memory = HostMemory(tmp_path, on_disk=True)
    settings = Shards(budget_gib=1.0)
    finish_on_cpu(make_preparer(settings, memory).prepare(model), settings)
    model.reload()
    memory.close()
    assert threads == [before + 2] * 2
    assert torch.get_num_threads() == before
