"""Fixtures: a small data set that a small network can learn, devices, and the genuine data where they are."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from only_gpu_skips import pytest_addoption, pytest_runtest_makereport  # noqa: F401
from scripting import small_settings

import partrain
from partrain.data import Dataset
from partrain.launch import zygote
from partrain.launch.processes import ProcessExecutor, ProcessHandle
from partrain.training.job import Job
from partrain.training.optimization import TrainSettings


def pytest_collection_finish() -> None:
    gc.freeze()  # The collector does not visit again and again what has been imported.


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing that tests prepare goes to the user's cache."""
    os.environ["PARTRAIN_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch.device(request.param)


def patterns(count: int, seed: int, num_classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images of class patterns: uint8 [count, 8, 8], and their labels."""
    patterns = np.random.default_rng(0).integers(40, 216, (num_classes, 8, 8))
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(count) % num_classes)
    images = patterns[labels] + random.normal(0, 60, (count, 8, 8))
    return images.clip(0, 255).astype(np.uint8), labels


@pytest.fixture
def own_zygote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test have a zygote of its own, which ends with it."""
    monkeypatch.setattr(zygote, "_shared", None)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[ProcessHandle]:
    """Return a list that every process is added to when a job is started in it, and again when it is restarted."""
    handles: list[ProcessHandle] = []
    start = ProcessExecutor.start

    def record(executor: ProcessExecutor, job: Job) -> ProcessHandle | None:
        handle = start(executor, job)
        if handle is not None:
            handles.append(handle)
        return handle

    monkeypatch.setattr(ProcessExecutor, "start", record)
    return handles


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """640 training and 200 test images, 8×8, of 5 classes."""
    train, test = patterns(640, seed=1), patterns(200, seed=2)
    return Dataset.from_arrays(*train, *test, folder=tmp_path_factory.mktemp("small") / "data")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with genuine EMNIST and MNIST files."""
    folder = os.environ.get("PARTRAIN_SHARED")
    if not folder:
        pytest.skip("PARTRAIN_SHARED is not set: it names the folder that holds emnist/ and mnist/")
    return Path(folder)


@pytest.fixture(scope="session")
def run(small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run that is done, once for all tests that look at what it left."""
    folder = tmp_path_factory.mktemp("reported")
    train = TrainSettings(epochs=3, batch_size=32, lr=3e-3, precision="fp32", early_stop=0)
    partrain.run(small_settings(train=train), folder, dataset=small, show_progress=False)
    return folder
