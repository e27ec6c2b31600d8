"""Tests that a multirun writes one table over its runs, and continues after a run that fails."""

import csv
from pathlib import Path

from scripting import TINY, run_script

from partrain.cli.multirun import COLUMNS
from partrain.storage import checkpoint


def test_the_table_of_a_multirun_in_which_a_job_fails(tmp_path: Path) -> None:
    outcome = run_script(
        "train",
        "-m",
        *TINY,
        "partition.segments=1",
        "labels=simplex",
        "train.batch_size=601,60",
        f"hydra.sweep.dir={tmp_path}",
    )
    message = "train.batch_size=601 is larger than the training set of 600 images. Set it to 600 or less."
    assert outcome.err.splitlines()[-1] == f"error: {message}"
    assert outcome.code == 1
    with (tmp_path / "table.csv").open() as file:
        failed, done = csv.DictReader(file)
    results = checkpoint.read_json(tmp_path / "1" / "results.json")
    assert (failed["run"], failed["outcome"], failed["test accuracy %"]) == ("0", message, "")
    assert "train.batch_size=601" in failed["overrides"]
    assert (done["run"], done["outcome"]) == ("1", "done")
    assert done["test accuracy %"] == f"{100 * results['test_accuracy']:.2f}"
    assert (done["data"], done["verified data"], done["traffic bytes"]) == ("glyphs", "-", "0")
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "| " + " | ".join(COLUMNS) + " |"
    assert len(lines) == 4
    assert lines[3].startswith("| 1 | ")
    assert f"Table over the 2 runs so far: {tmp_path}/table.md" in outcome.out


def test_no_table_without_a_multirun(tmp_path: Path) -> None:
    arguments = [*TINY, "partition.dry_run=true", f"hydra.run.dir={tmp_path}"]
    assert run_script("train", *arguments).code == 0
    assert not list(tmp_path.glob("table.*"))
