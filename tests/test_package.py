"""The package as a whole: its public names, and what a training process imports."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scripting import ROOT, small_settings

import partrain
from partrain.data import Dataset
from partrain.launch.engines import ENGINES
from partrain.launch.zygote import shared_zygote
from partrain.storage.run_folder import LOG
from partrain.training.job import Job

NAMES = """
import json, types
import partrain
found = {name: type(getattr(partrain, name)).__name__ for name in partrain.__all__}
again = {name: type(getattr(partrain, name)).__name__ for name in partrain.__all__}
assert not any(isinstance(getattr(partrain, name), types.ModuleType) for name in partrain.__all__)
assert dir(partrain) == sorted(partrain.__all__)
print(json.dumps([found, again]))
"""

# what a training process has no use for, unless it is its engine's
ELSEWHERE = ("report", "tuning", "comparison", "shards", "packs", "strategies", "runs", "cli")
LIBRARIES = ("hydra", "omegaconf", "plotly", "matplotlib", "jinja2", "torchvision")

TELLING = """
import atexit, json, os, sys
from torch import nn


def tell() -> None:
    with open(f"{os.environ['TOLD']}/{os.getpid()}.json", "w") as file:
        json.dump({"modules": sorted(sys.modules), "folder": sys.argv[1]}, file)


def build() -> nn.Module:
    if sys.argv[0] == "partrain.launch.worker":  # a job's process, not its launcher
        atexit.register(tell)
    hidden = [layer for _ in range(2) for layer in (nn.Linear(8, 8), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), *hidden, nn.Linear(8, 5))
"""


def fresh(program: str, **environment: str) -> str:
    """What a fresh process prints that runs `program`."""
    own = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run([sys.executable, "-c", program], env=own, capture_output=True, text=True, check=True)
    return done.stdout


def test_every_public_name_is_there_and_is_no_module() -> None:
    """Twice, since a module that is imported meanwhile would take the place of a name."""
    found, again = json.loads(fresh(NAMES))
    assert found == again
    assert set(found) == set(partrain.__all__)
    assert {"run", "search", "compare", "evaluate", "load", "unify", "run_together"} <= set(found)


def test_no_public_name_is_that_of_a_module_directly_below() -> None:
    package = Path(partrain.__file__).parent
    below = {path.stem for path in package.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert below & set(partrain.__all__) == set()
    assert {"runs", "tuning", "comparison", "settings"} <= below


def test_importing_the_package_imports_nothing_else() -> None:
    loaded = fresh("import sys, partrain; print([m for m in sys.modules if m == 'torch' or m.startswith('partrain.')])")
    assert loaded == "[]\n"


@pytest.mark.usefixtures("own_zygote")
@pytest.mark.parametrize(
    ("kind", "uses", "segments", "count", "what"),
    [
        ("segment", (), 2, 2, {}),
        ("pack", ("packs",), 4, 1, {"grouping": partrain.Pack(trial=False)}),
        ("rank", ("strategies",), 2, 2, {"strategy": partrain.DataParallel()}),
        ("shards", ("shards", "report", "jinja2", "plotly"), 1, 1, {"grouping": partrain.Shards()}),
    ],
)
def test_a_training_process_imports_what_it_uses_and_prints_nothing(
    small: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    uses: tuple[str, ...],
    segments: int,
    count: int,
    what: dict[str, Any],
) -> None:
    """Looked at in each process itself, by a network that tells at its end what is imported. Warnings are errors."""
    (tmp_path / "telling_network.py").write_text(TELLING)
    monkeypatch.syspath_prepend(tmp_path)
    (told := tmp_path / "told").mkdir()
    monkeypatch.setenv("TOLD", str(told))
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    settings = small_settings(
        network=partrain.CustomNetwork(name="telling_network:build"),
        train=partrain.TrainSettings(epochs=1, batch_size=64, precision="fp32"),
        partition=partrain.PartitionSettings(segments=segments),
        launch=partrain.Local(device="cpu", threads=1, processes="fork"),
        **what,
    )
    partrain.run(settings, tmp_path / "run", dataset=small, show_progress=False)
    processes = [json.loads(path.read_text()) for path in told.iterdir()]
    imported = [one["modules"] for one in processes if Job.read(Path(one["folder"])).kind == kind]
    assert len(imported) == count
    for modules in imported:
        assert {m.split(".")[1] for m in modules if m.startswith("partrain.")} & set(ELSEWHERE) <= set(uses)
        assert {m.split(".")[0] for m in modules} & set(LIBRARIES) <= set(uses)
        assert ENGINES[kind].module in modules
    logs = [*(tmp_path / "run").rglob(LOG), *(tmp_path / "run").glob("shards/*/workers/*.txt")]
    assert len(logs) >= count
    assert [log.read_text() for log in logs] == [""] * len(logs)
    assert shared_zygote().printed() == ""
