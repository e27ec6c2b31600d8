"""Training one segment: it is a plain training loop, resumes at any step, and depends on nobody else."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from trainings import train

from partrain.boundaries.boundary import ClassBoundary
from partrain.boundaries.labels import SparseLabels
from partrain.data import Dataset
from partrain.data.batches import Batch, BatchOrder, normalise
from partrain.errors import UserError
from partrain.launch.settings import Local
from partrain.launch.worker import WorkerContext
from partrain.networks import CNN, MLP, Chain, NetworkSettings
from partrain.networks.deferred import materialise
from partrain.partition.plan import PartitionSettings, make_plan
from partrain.runs.tasks import make_tasks
from partrain.settings import RunSettings, Sequential
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT
from partrain.training.context import LocalContext
from partrain.training.diagnostics import TrainingError, check_losses, collapse_warning
from partrain.training.meters import PeakMemory
from partrain.training.optimization import TrainSettings, learning_rate
from partrain.training.segment import SegmentTraining
from partrain.training.task import SegmentTask

TRAIN = TrainSettings(epochs=3, batch_size=64, lr=0.01, precision="fp32", early_stop=0)


def settings_of(**changed: Any) -> RunSettings:
    defaults: dict[str, Any] = {
        "network": MLP(depth=4, width=32, dropout=0.1, normalization="batch"),
        "train": TRAIN,
        "launch": Local(device="cpu"),
        "partition": PartitionSettings(segments=2),
    }
    return RunSettings(**{**defaults, **changed})


def prepare_tasks(small: Dataset, folder: Path, settings: RunSettings) -> list[Path]:
    """Task folders of a run, in order."""
    plan = make_plan(settings.network, (1, 8, 8), 5, settings.partition, settings.train.batch_size)
    tasks = make_tasks(settings, plan, small, "cpu")
    for name, task in tasks.items():
        task.write(folder / name)
    return [folder / name for name in tasks]


def weights(folder: Path) -> dict[str, Tensor]:
    return {n: t for n, t in checkpoint.load(folder / CHECKPOINT)[0].items() if n.startswith("model.")}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def test_one_segment_is_conventional_training(small: Dataset, tmp_path: Path, device: torch.device) -> None:
    """K = 1 ends with bit-identical weights to a loop of plain PyTorch."""
    network = MLP(depth=3, width=32)
    settings = settings_of(network=network, partition=PartitionSettings(segments=1), launch=Local(device=device.type))
    (folder,) = prepare_tasks(small, tmp_path, settings)
    assert train(folder)

    chain = Chain.build(network, (1, 8, 8), 5)
    materialise(chain.network, chain.tape, settings.seed, device)
    model = chain.network
    optimizer = torch.optim.AdamW(model.parameters(), lr=TRAIN.lr, weight_decay=0.01, fused=True)
    order = BatchOrder(640, 64, settings.seed, torch.device("cpu"))
    total = 3 * order.steps_per_epoch
    for epoch in range(3):
        for batch in order.batches(epoch):
            optimizer.param_groups[0]["lr"] = learning_rate(TRAIN, batch.step, total, total)
            images = normalise(small.train.images[batch.indices].to(device), small.mean, small.std)
            loss = F.cross_entropy(model(images), small.train.labels[batch.indices].to(device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    expected = {f"model.{name}": tensor.cpu() for name, tensor in model.state_dict().items()}
    assert_same(weights(folder), expected)


class StopAt(LocalContext):
    """Asks to stop once training has come to `step`."""

    def __init__(self, training: list[SegmentTraining], step: int) -> None:
        super().__init__()
        self._training, self._step = training, step

    def should_stop(self) -> bool:
        return bool(self._training) and self._training[0].progress.step >= self._step


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    "network", [MLP(depth=4, width=32, dropout=0.1), CNN(channels=[8, 8], strides=[2, 2], hidden=[16])]
)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_stopped_anywhere_it_resumes_to_the_same_bits(
    small: Dataset,
    tmp_path: Path,
    index: int,
    network: NetworkSettings,
    optimizer: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SegmentTraining, "log_every", 1)
    settings = settings_of(network=network, train=replace(TRAIN, optimizer=optimizer))
    undisturbed = prepare_tasks(small, tmp_path / "a", settings)[index]
    assert train(undisturbed)
    disturbed = prepare_tasks(small, tmp_path / "b", settings)[index]
    for step in (1, 4, 10, 13, 27):
        under_way: list[SegmentTraining] = []
        context = StopAt(under_way, step)
        under_way.append(SegmentTraining(disturbed, context, PeakMemory()))
        under_way[0].run()
        assert under_way[0].progress.step == step
        assert not under_way[0].progress.finished
    assert train(disturbed)
    assert_same(weights(disturbed), weights(undisturbed))
    without_times = [
        [{k: v for k, v in row.items() if "seconds" not in k and "per_second" not in k} for row in rows["epochs"]]
        for rows in (checkpoint.load_metadata(f / CHECKPOINT) for f in (disturbed, undisturbed))
    ]
    assert without_times[0] == without_times[1]


def test_a_finished_segment_is_left_alone(small: Dataset, tmp_path: Path) -> None:
    folder = prepare_tasks(small, tmp_path, settings_of())[1]
    assert train(folder)
    before = (folder / CHECKPOINT).read_bytes()
    assert train(folder)
    assert (folder / CHECKPOINT).read_bytes() == before


def test_any_order_and_alone_give_the_same_bits(small: Dataset, tmp_path: Path) -> None:
    settings = settings_of(network=MLP(depth=6, width=32), partition=PartitionSettings(segments=3))
    forwards = prepare_tasks(small, tmp_path / "forwards", settings)
    for folder in forwards:
        train(folder)
    backwards = prepare_tasks(small, tmp_path / "backwards", settings)
    for folder in reversed(backwards):
        train(folder)
    for index, folder in enumerate(forwards):
        alone = tmp_path / f"alone{index}" / "segments" / str(index)
        alone.mkdir(parents=True)
        (alone / "task.json").write_text((folder / "task.json").read_text())
        train(alone)
        assert_same(weights(folder), weights(backwards[index]))
        assert_same(weights(folder), weights(alone))


_opened: list[str] = []
_watching: list[bool] = [False]


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _watching[0]:
        return
    looks_at_open_one = event == "socket.__new__" and args[1:] == (-1, -1, -1)  # The meter of traffic does.
    if event.startswith("socket.") and not looks_at_open_one:
        raise RuntimeError(f"a segment's training used a socket: {event}")
    if event == "open":
        _opened.append(str(args[0]))


sys.addaudithook(_audit)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_training_opens_no_socket_and_no_file_of_another_segment(small: Dataset, tmp_path: Path, index: int) -> None:
    settings = settings_of(network=MLP(depth=6, width=32), partition=PartitionSettings(segments=3))
    folders = prepare_tasks(small, tmp_path, settings)
    _opened.clear()
    _watching[0] = True
    try:
        assert train(folders[index])
    finally:
        _watching[0] = False
    ours = [name for name in _opened if name.startswith(str(tmp_path))]
    assert ours
    assert all(name.startswith(str(folders[index])) for name in ours), ours
    data = [name for name in _opened if str(small.folder) in name]
    assert bool(data) == (index == 0), "segments after the first need no data at all"


def test_sequential_segments_are_fed_the_outputs_of_the_left_one(small: Dataset, tmp_path: Path) -> None:
    settings = settings_of(network=MLP(depth=4, width=32), schedule=Sequential(last_input="stored"))
    left, right = prepare_tasks(small, tmp_path, settings)
    with pytest.raises(UserError, match=r"boundaries/1.safetensors is missing: the segment to the left has not stored"):
        train(right)
    train(left)
    training = SegmentTraining(right, LocalContext(), PeakMemory())
    indices = torch.tensor([5, 600, 3])
    features, targets = training.input.sample(Batch(0, indices))
    module = SegmentTraining(left, LocalContext(), PeakMemory()).model.eval()
    with torch.inference_mode():
        outputs = module(normalise(small.train.images, small.mean, small.std))
    assert torch.equal(features, outputs[indices])
    assert torch.equal(targets, small.train.labels[indices])
    assert checkpoint.load_metadata(left / CHECKPOINT)["stored_bytes"] == 640 * 32 * 4


def test_synthetic_segments_stop_at_their_floor(small: Dataset, tmp_path: Path) -> None:
    settings = settings_of(train=replace(TRAIN, epochs=40, early_stop=0.05))
    left, right = prepare_tasks(small, tmp_path, settings)
    train(left)
    train(right)
    assert not checkpoint.load_metadata(left / CHECKPOINT)["stopped_early"]
    progress = checkpoint.load_metadata(right / CHECKPOINT)
    assert progress["stopped_early"]
    assert len(progress["epochs"]) < 40
    losses = [row["loss"] for row in progress["epochs"]]
    floor = next(i for i in range(1, len(losses)) if losses[i - 1] - losses[i] < 0.05 * losses[i - 1])
    assert len(losses) == floor + 2, "one more epoch in which the rate falls"
    assert progress["epochs"][-1]["learning_rate"] < progress["epochs"][-2]["learning_rate"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_names_segment_epoch_and_step(bad: float) -> None:
    losses = torch.tensor([1.0, 2.0, bad, bad])
    with pytest.raises(TrainingError) as caught:
        check_losses(losses, segment=3, epoch=1)
    assert str(caught.value) == (
        f"segment 3: the loss is {bad} at epoch 2, step 3; lower train.lr, or train with train.precision=fp32"
    )


def test_diverging_training_stops_with_its_step(small: Dataset, tmp_path: Path) -> None:
    settings = settings_of(train=replace(TRAIN, optimizer="sgd", lr=1e18), network=MLP(depth=4, width=32))
    folder = prepare_tasks(small, tmp_path, settings)[1]
    with pytest.raises(TrainingError, match=r"segment 1: the loss is (nan|inf) at epoch 1, step \d+; lower train.lr"):
        train(folder)


def test_collapse_is_noticed_while_training(small: Dataset, tmp_path: Path) -> None:
    """Sparse 0/1 codes under mse at a high rate: the ReLU outputs of the left segment die."""
    settings = settings_of(
        network=CNN(channels=[16, 16], strides=[2, 2], hidden=[16]),
        labels=SparseLabels(loss="mse", density=0.02),
        train=replace(TRAIN, lr=3.0, epochs=4),
    )
    folder = prepare_tasks(small, tmp_path, settings)[0]
    train(folder)
    warning = checkpoint.load_metadata(folder / CHECKPOINT)["epochs"][-1]["warning"]
    assert warning.startswith("the output has collapsed: ")
    assert "of its outputs are dead" in warning
    assert "try labels.loss=similarity" in warning
    assert warning in (folder / "metrics.csv").read_text()


def test_healthy_outputs_are_not_called_collapsed() -> None:
    healthy = torch.randn(64, 5)
    assert collapse_warning(healthy, ClassBoundary(), accuracy=0.8, num_classes=5, steps=1000) is None
    assert collapse_warning(healthy, ClassBoundary(), accuracy=0.2, num_classes=5, steps=10) is None
    lost = collapse_warning(healthy, ClassBoundary(), accuracy=0.2, num_classes=5, steps=1000)
    assert lost is not None
    assert "decode accuracy 20.0% (chance 20.0%)" in lost


def test_weight_decay_left_open_is_higher_where_real_inputs_become_codes(small: Dataset, tmp_path: Path) -> None:
    for part, (decay, expected) in {"open": (None, [1.0, 0.01]), "given": (0.3, [0.3, 0.3])}.items():
        folders = prepare_tasks(small, tmp_path / part, settings_of(train=replace(TRAIN, weight_decay=decay)))
        found = [
            SegmentTraining(f, LocalContext(), PeakMemory()).optimizer.param_groups[0]["weight_decay"] for f in folders
        ]
        assert found == expected


def test_a_task_of_other_settings_is_refused(small: Dataset, tmp_path: Path) -> None:
    folder = prepare_tasks(small, tmp_path, settings_of())[0]
    task = SegmentTask.read(folder)
    task.check_folder(folder)
    with pytest.raises(UserError, match=r"task.json is of another plan or other settings; start a new run"):
        replace(task, seed=1).check_folder(folder)


def test_a_task_of_an_earlier_version_is_the_same_one(small: Dataset, tmp_path: Path) -> None:
    """It left the precision to the device, and had another suffix for stored outputs."""
    folder = prepare_tasks(small, tmp_path, settings_of())[0]
    task = replace(SegmentTask.read(folder), stored_output="../../boundaries/1.safetensors")
    old = replace(task, stored_output="../../boundaries/1.bin", train=replace(task.train, precision="auto"))
    old.write(folder)
    task.check_folder(folder)
    with pytest.raises(UserError, match=r"task.json is of another plan or other settings; start a new run"):
        replace(task, stored_output=None).check_folder(folder)


def test_a_message_that_cannot_be_written_does_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "messages.txt").mkdir()  # A folder, which no line can be appended to.
    WorkerContext(tmp_path, ["cpu"]).print("three shards")
    assert capsys.readouterr().out == "three shards\n"


def test_the_launcher_sets_threads_by_file(tmp_path: Path) -> None:
    context = WorkerContext(tmp_path, ["cpu"])
    context.poll()
    (tmp_path / "threads").write_text("2")
    try:
        context.poll()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
