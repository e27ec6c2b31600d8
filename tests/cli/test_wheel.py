"""Tests of the wheel: built and installed without a network, its command works in any folder."""

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from scripting import ROOT, TINY


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the programs of an environment that has the wheel, and the dependencies from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    source = folder / "source"  # Building leaves files beside the sources.
    for name in ("partrain", "conf"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    build = [*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")

    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = environment / "lib" / version / "site-packages"
    install = [*pip, "--python", str(environment / "bin/python"), "install", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    # Not before, since pip would take an install that it finds there for this one. A folder that a .pth file names has
    # no .pth files of its own read, such as that of an editable install.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


def run(program: Path, *arguments: str, folder: Path) -> str:
    """Run a command in a folder without the checkout on its path, and return its output."""
    done = subprocess.run(
        [str(program), *arguments], cwd=folder, capture_output=True, text=True, check=False, env={"HOME": str(folder)}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_of_the_wheel_trains_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    code = "import partrain; print(partrain.__file__)"
    assert run(installed / "python", "-c", code, folder=tmp_path).startswith(str(installed.parent))
    assert run(installed / "partrain", "--help", folder=tmp_path).startswith("Train neural networks in independent ")
    said = run(installed / "partrain", "train", *TINY, "experiment=k2_parallel", folder=tmp_path)
    [results] = tmp_path.glob("runs/*/results.json")
    assert 0 < json.loads(results.read_text())["test_accuracy"] < 1
    assert f"Run: {results.parent}" in said
