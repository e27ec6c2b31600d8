"""Tests of the page for projects with their own Hydra configuration: its example is run as it stands."""

import json
import re
import subprocess
import sys
from pathlib import Path

from scripting import ROOT

PAGE = ROOT / "docs" / "from_hydra.md"
FILE = re.compile(r"^```\w+\n# (\w+\.\w+), in the working directory\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_example_of_the_page_trains(tmp_path: Path) -> None:
    for name, text in FILE.findall(PAGE.read_text()):
        (tmp_path / name).write_text(text)
    command = [sys.executable, "my_project.py", "partrain.network.width=32", "+partrain.report.page=false"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "outputs/first/results.json").read_text())
    assert results["network"]["width"] == 32
    assert 0 < results["validation_accuracy"] < 1

    refused = [sys.executable, "my_project.py", "+partrain.labels.density=0.3"]
    done = subprocess.run(refused, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "labels.density is a setting of labels=sparse; add labels=sparse, or leave it out" in done.stderr
