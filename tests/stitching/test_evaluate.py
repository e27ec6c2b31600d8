"""experiments/evaluate.py and `partrain.evaluate`: accuracies that add up, on own and other data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripting import DATA, run_script, small_settings

import partrain
from partrain.data import Dataset
from partrain.errors import UserError
from partrain.stitching.evaluate import evaluation_device
from partrain.storage import checkpoint
from partrain.training.optimization import TrainSettings

TRAIN = TrainSettings(epochs=4, batch_size=32, lr=3e-3, precision="fp32")


@pytest.fixture(scope="module")
def run(small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    partrain.run(small_settings(train=TRAIN), folder, dataset=small, show_progress=False)
    return folder


def images_of(dataset: Dataset) -> torch.Tensor:
    return partrain.normalise(dataset.test.images, dataset.mean, dataset.std)


def test_accuracy_is_that_of_the_loaded_network(run: Path, small: Dataset, device: torch.device) -> None:
    network = partrain.load(run, device)
    assert not network.training
    with torch.inference_mode():
        scores = network(images_of(small).to(device)).cpu()
    predicted, labels = scores.argmax(dim=1), small.test.labels
    result = partrain.evaluate(run, small, device)
    assert result.top1 == result.boundaries[1] == (predicted == labels).float().mean().item()
    assert result.top1 > 0.8  # of five classes: it has learnt them
    assert result.top5 == 1.0
    assert result.confusion.sum() == len(labels) == 200
    for true in range(5):
        for taken in range(5):
            assert result.confusion[true, taken] == ((labels == true) & (predicted == taken)).sum()
    for name, accuracy in result.per_class().items():
        of_class = labels == int(name)
        assert accuracy == pytest.approx((predicted[of_class] == int(name)).float().mean().item())
    mistakes = result.most_confused()
    assert sum(pair["images"] for pair in mistakes) <= (predicted != labels).sum()
    assert [pair["images"] for pair in mistakes] == sorted((pair["images"] for pair in mistakes), reverse=True)


def test_other_images_of_the_same_classes(run: Path, small: Dataset, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 8, 8), dtype=np.uint8)
    labels = np.arange(50) % 5
    other = Dataset.from_arrays(noise, labels, noise, labels, folder=tmp_path / "noise")
    result = partrain.evaluate(run, other)
    assert result.data["test_images"] == 50
    assert result.top1 < 0.6


def test_classes_without_images_have_no_accuracy(run: Path, small: Dataset, tmp_path: Path) -> None:
    images, labels = small.test.images.numpy(), small.test.labels.numpy()
    some = labels < 2
    part = Dataset.from_arrays(images, labels, images[some], labels[some], folder=tmp_path / "part")
    assert set(partrain.evaluate(run, part).per_class()) == {"0", "1"}


def test_other_classes_are_refused(run: Path, small: Dataset, tmp_path: Path) -> None:
    images, labels = small.test.images.numpy(), small.test.labels.numpy()
    renamed = Dataset.from_arrays(images, labels, images, labels, classes=list("abcde"), folder=tmp_path / "renamed")
    with pytest.raises(UserError) as caught:
        partrain.evaluate(run, renamed)
    assert str(caught.value) == (f"data=arrays has 5 classes (abcde), the network of {run} was trained on 5 (01234)")


def test_a_run_of_other_data_than_the_script_is_given(run: Path) -> None:
    outcome = run_script("evaluate", f"run={run}", "data=glyphs", *DATA)
    assert outcome.code == 1
    classes = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"
    assert outcome.error == (
        f"error: data=glyphs has 47 classes ({classes}), the network of {run} was trained on 5 (01234)"
    )
    assert not (run / "evaluation").exists()


@pytest.fixture(scope="module")
def glyphs_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    single = ["partition.segments=1", "network.depth=2", "network.width=64", "train.epochs=4", "train.batch_size=50"]
    outcome = run_script("train", *DATA, *single, "launch.device=cpu", f"hydra.run.dir={folder}")
    assert outcome.code == 0, outcome.err
    return folder


@pytest.mark.parametrize("data", [[], ["data=glyphs", "data.limit_train=600", "data.limit_test=100"]])
def test_the_script_writes_what_it_prints(glyphs_run: Path, data: list[str]) -> None:
    outcome = run_script("evaluate", f"run={glyphs_run}", *data)
    assert outcome.code == 0, outcome.err
    folder = glyphs_run / "evaluation" / "glyphs"
    assert {file.name for file in folder.iterdir()} == {
        "evaluation.json",
        "confusion.png",
        "per_class.png",
        "curves.png",
    }
    found: dict[str, Any] = checkpoint.read_json(folder / "evaluation.json")
    assert found["data"]["test_images"] == (100 if data else 200)
    assert np.trace(found["confusion"]) == round(found["top1"] * found["data"]["test_images"])
    assert f"top-1 {found['top1']:.2%}, top-5 {found['top5']:.2%}" in outcome.out
    assert f"Written to {folder}" in outcome.out
    if not data:
        assert found["top1"] == checkpoint.read_json(glyphs_run / "results.json")["test_accuracy"]


def test_a_network_that_a_device_has_no_room_for_is_evaluated_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "partrain.stitching.evaluate.has_room", lambda device, bytes_: str(device) == "cpu" or bytes_ <= 8000
    )
    assert evaluation_device("cuda:0", 1000) == torch.device("cuda:0")
    assert evaluation_device("cuda:0", 1001) == torch.device("cpu")
    assert evaluation_device("cpu", 1001) == torch.device("cpu")
