"""Files that are whole or not there, and damage that is noticed."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from partrain.storage import checkpoint

HOST = os.uname().nodename


def saved(folder: Path) -> Path:
    path = folder / "file.safetensors"
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, 2).bfloat16(), "empty": torch.zeros(0)}
    checkpoint.save(path, tensors, {"step": 3})
    return path


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = saved(tmp_path)
    tensors, metadata = checkpoint.load(path)
    assert metadata == {"step": 3} == checkpoint.load_metadata(path)
    assert torch.equal(tensors["a"], torch.arange(6.0).view(2, 3))
    assert tensors["b"].dtype == torch.bfloat16
    assert [file.name for file in tmp_path.iterdir()] == ["file.safetensors"]


def test_tensors_in_another_memory_layout_keep_their_values(tmp_path: Path) -> None:
    image = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    checkpoint.save(tmp_path / "file", {"image": image}, None)
    assert torch.equal(checkpoint.load(tmp_path / "file")[0]["image"], image)


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x01
        path.write_bytes(damaged)
        with pytest.raises(checkpoint.DamagedFile) as caught:
            checkpoint.load(path)
        assert str(caught.value).startswith(f"{path} is damaged")
        assert str(caught.value).endswith("delete it and resume the run")


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_file_cut_short_is_noticed(tmp_path: Path, length: int) -> None:
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(checkpoint.DamagedFile, match="is damaged"):
        checkpoint.load(path)
    if length != -1:
        with pytest.raises(checkpoint.DamagedFile, match="is damaged"):
            checkpoint.load_metadata(path)


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    checkpoint.write_json(path, {"old": True})

    def fail_midway(beside: Path) -> None:
        beside.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        checkpoint.write_atomic(path, fail_midway)
    assert checkpoint.read_json(path) == {"old": True}
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]


def test_damaged_json_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"a": 1})[:-1])
    with pytest.raises(checkpoint.DamagedFile) as caught:
        checkpoint.read_json(path)
    assert str(caught.value).startswith(f"{path} is damaged (")


# ---- Temporary files, and the modes of those that stay.


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_every_file_has_the_mode_that_the_umask_gives(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        saved(tmp_path)
        checkpoint.write_json(tmp_path / "file.json", {})
        checkpoint.write_atomic(tmp_path / "replaced", private)
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {"file.safetensors": mode, "file.json": mode, "replaced": mode}


def private(path: Path) -> None:
    """Replace a file as libraries do that write a file of their own first."""
    beside = path.with_name("beside")
    beside.touch(0o600)
    beside.replace(path)


def test_a_temporary_name_says_whose_it_is_and_is_new_each_time(tmp_path: Path) -> None:
    names = []
    for _ in range(2):
        checkpoint.write_atomic(tmp_path / "plan.json", lambda beside: names.append(beside.name))
    assert all(name.startswith(f".plan.json.{HOST}-{os.getpid()}-") for name in names)
    assert all(name.endswith(".partial") for name in names)
    assert len(set(names)) == 2


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from partrain.storage import checkpoint

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

def save_half(tensors, path, metadata):
    path.with_name(".tmpAbC123").write_bytes(b"half")  # as safetensors does, which renames it then
    die()

if sys.argv[2] == "synced":
    os.fsync = die
else:
    checkpoint.save_file = save_half
checkpoint.save(Path(sys.argv[1]) / "checkpoint.safetensors", {"a": torch.ones(3)}, None)
"""


@pytest.mark.parametrize("moment", ["written", "synced"])
def test_what_a_killed_process_has_begun_to_write_is_removed(moment: str, tmp_path: Path) -> None:
    folder = tmp_path / "segments/0"
    old = saved(folder).rename(folder / "checkpoint.safetensors").read_bytes()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder), moment], env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(folder.glob(".checkpoint*"))) >= 1
    checkpoint.remove_partial_files(tmp_path)
    assert len(list(folder.glob(".checkpoint*"))) >= 1
    checkpoint.remove_partial_files(tmp_path, recursive=True)
    assert [path.name for path in folder.iterdir()] == ["checkpoint.safetensors"]
    assert (folder / "checkpoint.safetensors").read_bytes() == old


def test_nothing_else_is_removed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        with subprocess.Popen([sys.executable, "-c", ""]) as ended:
            pass
        gone = [
            f".a.json.{HOST}-{ended.pid}-0a1b2c3d.partial",
            f".b.c-d.json.{HOST}-{os.getpid()}-0a1b2c3d.partial",  # an earlier process had this one's number
            f".e.json.another-host-{alive.pid}-0a1b2c3d.partial",
            ".partial",
            ".f.partial",
        ]
        stays = [f".a.json.{HOST}-{alive.pid}-0a1b2c3d.partial", "a.partial", ".hidden", ".partial.json", "lock"]
        for name in [*gone, *stays]:
            (tmp_path / name).write_text(name)
        (tmp_path / ".link.partial").symlink_to(tmp_path.parent)
        checkpoint.remove_partial_files(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == set(stays)
        alive.communicate(b"\n")
    checkpoint.remove_partial_files(tmp_path / "absent", recursive=True)
