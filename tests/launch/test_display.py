"""Tests of the progress of trainings: a bar each on a terminal, lines elsewhere."""

import io
import os
from pathlib import Path

from rich.console import Console

from partrain.launch.display import Display
from partrain.storage import checkpoint

STATE = {
    "step": 30,
    "end": 120,
    "epoch": 2,
    "loss": 1.25,
    "decode_accuracy": 0.5,
    "samples_per_second": 12345.0,
    "threads": 1,
    "warning": "",
    "epoch_ended": False,
}


def shown(folder: Path, states: list[dict[str, object]], terminal: bool) -> str:
    """Return what is displayed for a segment that goes through `states`, beside one that waits."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120, color_system=None, highlight=False)
    with Display([(folder, "segment 0"), (folder / "other", "segment 1")], output=console) as view:
        for count, state in enumerate(states):
            checkpoint.write_json(folder / "progress.json", state)
            os.utime(folder / "progress.json", ns=(count, count))
            view.update(folder)
        view.print("segment 0: killed by SIGKILL")
    return text.getvalue()


def test_on_a_terminal_every_segment_has_a_bar(tmp_path: Path) -> None:
    text = shown(tmp_path, [STATE], terminal=True)
    assert "epoch 2  loss 1.2500  decodes  50.0 %  12,345 samples/s" in text
    rows = text.splitlines()
    assert any(row.startswith("segment 0 ━") for row in rows)
    assert any(row.startswith("segment 1 ━") and "waiting" in row for row in rows)


def test_elsewhere_every_epoch_has_a_line(tmp_path: Path) -> None:
    ended = STATE | {"epoch_ended": True}
    text = shown(tmp_path, [STATE, ended, ended, ended | {"epoch": 3, "warning": "collapsed"}], terminal=False)
    status = "loss 1.2500  decodes  50.0 %  12,345 samples/s"
    assert text.splitlines() == [
        f"segment 0: epoch 2  {status}",
        f"segment 0: epoch 3  {status}  WARNING collapsed",
        "segment 0: killed by SIGKILL",
    ]


def test_half_written_progress_is_passed_over(tmp_path: Path) -> None:
    shown = io.StringIO()
    (tmp_path / "progress.json").write_text('{"step": ')
    with Display([(tmp_path, "segment 0")], output=Console(file=shown)) as view:
        view.update(tmp_path)
    assert shown.getvalue() == ""
