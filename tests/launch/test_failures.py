"""Tests of segments that fail for good: the message has number and reason, and the others finish."""

from pathlib import Path

import own_networks
import pytest
from scripting import DATA, run_script, small_settings

import partrain
from partrain.data import Dataset
from partrain.errors import JobFailed
from partrain.networks import CustomNetwork
from partrain.runs.command import local_command
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT
from partrain.training.optimization import TrainSettings

OVERFLOW = "segment 0: the loss is {loss} at epoch 1, step 1; lower train.lr, or train with train.precision=fp32"
BREAKDOWN = (
    "Segment 0 failed in {own_networks}, line {line}: RuntimeError: out of coffee. The full traceback is in {log}."
)


@pytest.mark.parametrize(("builder", "expected"), [("overflowing", OVERFLOW), ("breaking", BREAKDOWN)])
def test_a_segment_that_fails_says_so_and_the_other_finishes(
    builder: str, expected: str, small: Dataset, tmp_path: Path
) -> None:
    settings = small_settings(
        network=CustomNetwork(name=f"own_networks:{builder}"),
        train=TrainSettings(epochs=2, batch_size=64, precision="fp32"),
    )
    with pytest.raises(JobFailed) as caught:
        partrain.run(settings, tmp_path, dataset=small, show_progress=False)
    code, log = Path(own_networks.__file__), tmp_path / "segments/0/log.txt"
    line = code.read_text().splitlines().index('    raise RuntimeError("out of coffee")') + 1
    shown = code.relative_to(Path.cwd()) if code.is_relative_to(Path.cwd()) else code
    messages = [expected.format(loss=loss, own_networks=shown, line=line, log=log) for loss in ("nan", "inf")]
    assert str(caught.value) in messages
    assert caught.value.is_user_error
    assert ("break_down" in log.read_text()) == (builder == "breaking")
    assert checkpoint.load_metadata(tmp_path / "segments/1" / CHECKPOINT)["finished"]


def test_divergence_through_the_script_names_every_segment(tmp_path: Path) -> None:
    arguments = [
        *DATA,
        "network.depth=2",
        "network.width=64",
        "train.batch_size=50",
        "train.optimizer=sgd",
        "train.lr=1e30",
    ]
    words = ["grouping=pack", "grouping.trial=false", "launch.device=cpu"]
    outcome = run_script("train", *arguments, "train.precision=fp32", *words, f"hydra.run.dir={tmp_path}")
    assert outcome.code == 1
    lines = [line for line in outcome.err.splitlines() if not line.startswith("Preparing ")]
    assert len(lines) == 2
    for index, line in enumerate(lines):
        found = line.removeprefix("error: ")
        assert found.startswith(f"segment {index}: the loss is ")
        assert found.endswith("; lower train.lr, or train with train.precision=fp32")
        assert " at epoch 1, step " in found
    again = local_command("train", [f"resume={tmp_path}", "launch.device=cpu"])  # The folder has its grouping.
    assert f"Progress is saved. To continue: {again}" in outcome.out.splitlines()
