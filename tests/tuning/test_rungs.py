"""Tests of what a rung's trainer takes as the weights of a trial."""

import re
from pathlib import Path

import pytest

from partrain.errors import JobFailed
from partrain.storage import checkpoint
from partrain.storage.run_folder import CHECKPOINT, epoch_weights
from partrain.tuning.rungs import weights_file


def test_the_weights_of_an_epoch_are_those_kept_then_or_the_last_of_a_training_that_ended(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / CHECKPOINT, {}, {"finished": False})
    checkpoint.save(epoch_weights(tmp_path, 2), {}, {})
    assert weights_file(tmp_path, 2) == epoch_weights(tmp_path, 2)
    checkpoint.save(tmp_path / CHECKPOINT, {}, {"finished": True})
    assert weights_file(tmp_path, 6) == tmp_path / CHECKPOINT


def test_a_checkpoint_of_fewer_epochs_is_never_scored(tmp_path: Path) -> None:
    """A process that was told to stop from outside leaves one."""
    checkpoint.save(tmp_path / CHECKPOINT, {}, {"finished": False})
    checkpoint.save(epoch_weights(tmp_path, 2), {}, {})
    message = f"{tmp_path} was not trained up to epoch 6"
    with pytest.raises(JobFailed, match=f"^{re.escape(message)}$"):
        weights_file(tmp_path, 6)
