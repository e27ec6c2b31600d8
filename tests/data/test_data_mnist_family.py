"""Finding, downloading, turning upright and verifying the files of EMNIST and its relatives."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from zipfile import ZipFile

import pytest
import torch
import torchvision

from partrain.data import DATA_SETS, EMNIST_SPLITS, Dataset, prepare_data
from partrain.data.mnist_family import EMNIST_CLASSES
from partrain.data.settings import EMNIST, KMNIST
from partrain.errors import UserError


class QuietHandler(SimpleHTTPRequestHandler):
    """A handler of requests that logs nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Do nothing."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Serve a folder over HTTP on this machine; return the folder and its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def open_prepared(root: Path, name: str = "emnist", **settings: object) -> Dataset:
    """Prepare a data set from the files in `root`, without any download."""
    described = {"name": name, "root": str(root), "download": False, **settings}
    return prepare_data(DATA_SETS.from_dict(described), show_progress=False)


def official(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, hashes: dict[str, str]) -> None:
    """Replace the publisher's hashes of the data set `name` by `hashes`."""
    (tmp_path / "official_files.json").write_text(json.dumps({name: hashes}))
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)


def sha256(content: bytes) -> str:
    """Return the hash of `content` as official_files.json has it."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def test_images_come_out_upright(balanced: Path, glyphs: Dataset) -> None:
    data = open_prepared(balanced)
    assert torch.equal(data.train.images, glyphs.train.images)
    assert torch.equal(data.train.labels, glyphs.train.labels)
    assert torch.equal(data.test.images, glyphs.test.images)
    assert torch.equal(data.test.labels, glyphs.test.labels)
    assert (data.mean, data.std, data.image_shape) == (glyphs.mean, glyphs.std, (28, 28))
    assert data.classes == glyphs.classes


def test_limits_take_the_first_images(balanced: Path, glyphs: Dataset) -> None:
    data = open_prepared(balanced, limit_train=1000, limit_test=1880)
    assert torch.equal(data.train.images, glyphs.train.images[:1000])
    assert torch.equal(data.train.labels, glyphs.train.labels[:1000])
    assert len(data.test) == 1880


def test_mnist_is_upright_already(mnist: Path, glyphs: Dataset) -> None:
    data = open_prepared(mnist, "mnist")
    digits = glyphs.train.labels < 10
    assert torch.equal(data.train.images, glyphs.train.images[digits])
    assert torch.equal(data.train.labels, glyphs.train.labels[digits])
    assert data.classes == tuple("0123456789")


@pytest.mark.parametrize(("name", "folder"), [("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")])
def test_relatives_of_mnist_differ_in_folder_and_classes(mnist: Path, name: str, folder: str) -> None:
    (mnist / "MNIST").rename(mnist / folder)
    data = open_prepared(mnist, name)
    expected = torchvision.datasets.FashionMNIST.classes if name == "fashion_mnist" else list("0123456789")
    assert (list(data.classes), data.name, data.split) == (expected, name, None)


@pytest.mark.parametrize("split", EMNIST_SPLITS)
def test_class_names_are_those_of_torchvision(split: str) -> None:
    expected = [
        name.upper() if split == "letters" else name for name in torchvision.datasets.EMNIST.classes_split_dict[split]
    ]
    assert list(EMNIST_CLASSES[split]) == [name for name in expected if name != "N/A"]


def test_class_names_come_from_the_mapping_file(balanced: Path) -> None:
    mapping = balanced / "EMNIST" / "raw" / "emnist-balanced-mapping.txt"
    mapping.write_text("".join(f"{label} {0x3B1 + label} 65\n" for label in range(47)))
    assert open_prepared(balanced).classes == tuple(chr(0x3B1 + label) for label in range(47))
    for content in (b"0 48\n1 49\n", b"not a mapping", b"0\n", b"\xff"):
        mapping.write_bytes(content)
        with pytest.raises(UserError) as raised:
            open_prepared(balanced)
        assert str(raised.value) == (
            f"{mapping} is damaged: expected 47 lines of a label and its code points, labels from 0. "
            "Get the file again, or delete it."
        )


def test_missing_files_name_the_folder_the_files_and_the_remedies(balanced: Path, tmp_path: Path) -> None:
    raw = balanced / "EMNIST" / "raw"
    (raw / "emnist-balanced-test-images-idx3-ubyte.gz").unlink()
    with pytest.raises(UserError) as raised:
        open_prepared(balanced)
    assert str(raised.value) == (
        f"data.name=emnist: {raw} lacks emnist-balanced-test-images-idx3-ubyte (each unpacked, or with .gz). "
        "Set data.download=true, or data.root to a folder that holds EMNIST/raw with them."
    )
    with pytest.raises(UserError) as raised:
        open_prepared(tmp_path / "nowhere", "kmnist")
    assert str(raised.value) == (
        f"data.name=kmnist: {tmp_path / 'nowhere' / 'KMNIST' / 'raw'} lacks "
        "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte "
        "(each unpacked, or with .gz). "
        "Set data.download=true, or data.root to a folder that holds KMNIST/raw with them."
    )


def test_a_changed_file_is_read_anew(balanced: Path, glyphs: Dataset) -> None:
    before = open_prepared(balanced)
    raw = balanced / "EMNIST" / "raw"
    for content in ("images-idx3", "labels-idx1"):
        test, train = (raw / f"emnist-balanced-{part}-{content}-ubyte.gz" for part in ("test", "train"))
        shutil.copy(test, train)
    after = open_prepared(balanced)
    assert after.folder != before.folder
    assert torch.equal(after.train.images, glyphs.test.images)


def test_verification_of_compressed_files(balanced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {file.name: sha256(file.read_bytes()) for file in (balanced / "EMNIST" / "raw").iterdir()}
    official(monkeypatch, tmp_path, "emnist", hashes)
    provenance = open_prepared(balanced).provenance()
    assert (provenance["verified"], provenance["note"]) == (True, "")

    hashes["emnist-balanced-train-labels-idx1-ubyte.gz"] = sha256(b"other bytes")
    official(monkeypatch, tmp_path, "emnist", hashes)
    provenance = open_prepared(balanced, limit_train=100).provenance()
    assert (provenance["verified"], provenance["note"]) == (False, "1 of 4 files are not byte for byte NIST's")


def test_verification_of_unpacked_files(mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {file.name: file.read_bytes() for file in (mnist / "MNIST" / "raw").iterdir()}
    hashes = {f"{name}.gz": "md5:" + 32 * "0" for name in contents}
    official(monkeypatch, tmp_path, "mnist", hashes)
    data = open_prepared(mnist, "mnist")
    note = "4 of 4 files are unpacked, and cannot be compared with the official ones"
    assert (data.verified, data.note) == (False, note)

    hashes |= {name: sha256(content) for name, content in contents.items()}
    official(monkeypatch, tmp_path, "mnist", hashes)
    data = open_prepared(mnist, "mnist", limit_train=100)
    note = "files are not compressed as published, but their contents are byte for byte the official ones"
    assert (data.verified, data.note) == (True, note)


def test_downloads_come_from_torchvision(
    mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, glyphs: Dataset, served: tuple[Path, str]
) -> None:
    folder, address = served
    for file in (mnist / "MNIST" / "raw").iterdir():
        (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), mtime=0))
    sums = [(file.name, hashlib.md5(file.read_bytes()).hexdigest()) for file in sorted(folder.iterdir())]
    monkeypatch.setattr(torchvision.datasets.KMNIST, "mirrors", [address])
    monkeypatch.setattr(torchvision.datasets.KMNIST, "resources", sums)
    official(monkeypatch, tmp_path, "kmnist", {name: f"md5:{digest}" for name, digest in sums})

    data = prepare_data(KMNIST(), show_progress=False)
    assert torch.equal(data.train.images, glyphs.train.images[glyphs.train.labels < 10])
    assert (data.verified, data.note) == (True, "")
    downloads = tmp_path / "cache" / "downloads"
    assert [file.name for file in downloads.iterdir()] == ["KMNIST"]
    shutil.rmtree(folder)
    assert prepare_data(KMNIST(download=True), show_progress=False).folder == data.folder


def test_emnist_is_read_from_nists_own_archive(
    balanced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, glyphs: Dataset, served: tuple[Path, str]
) -> None:
    folder, address = served
    archive = folder / "gzip.zip"
    hashes = {}
    with ZipFile(archive, "w") as members:
        for file in (balanced / "EMNIST" / "raw").iterdir():
            members.write(file, f"gzip/{file.name}")
            hashes[file.name] = sha256(file.read_bytes())
    official(monkeypatch, tmp_path, "emnist", hashes)
    monkeypatch.setattr(torchvision.datasets.EMNIST, "url", f"{address}gzip.zip")
    monkeypatch.setattr(torchvision.datasets.EMNIST, "md5", hashlib.md5(archive.read_bytes()).hexdigest())

    data = prepare_data(EMNIST(), show_progress=False)
    assert torch.equal(data.test.images, glyphs.test.images)
    assert (data.verified, data.note) == (True, "")


def test_a_failed_download_names_the_remedies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.EMNIST, "url", (tmp_path / "absent.zip").as_uri())
    with pytest.raises(UserError) as raised:
        prepare_data(EMNIST(root=str(tmp_path / "root")), show_progress=False)
    raw = tmp_path / "root" / "EMNIST" / "raw"
    text = str(raised.value)
    assert text.startswith(f"data.name=emnist: the download into {raw} failed (<urlopen error [Errno 2] No such file")
    assert text.endswith(". Put the files there, or set data.root to a folder that holds EMNIST/raw with them.")
    assert "\n" not in text
    assert [file.name for file in (tmp_path / "root").iterdir()] == ["EMNIST"]


def test_genuine_mnist_is_verified(shared: Path) -> None:
    data = open_prepared(shared / "mnist", "mnist")
    assert data.train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    note = "files are not compressed as published, but their contents are byte for byte the official ones"
    counts = {"train_images": 60000, "test_images": 10000}
    assert data.provenance() == {"name": "mnist", "split": None, **counts, "verified": True, "note": note}
    assert (round(data.mean, 4), round(data.std, 4)) == (0.1307, 0.3081)


def test_genuine_emnist_equals_torchvisions(shared: Path, tmp_path: Path) -> None:
    data = open_prepared(shared / "emnist")
    assert (data.verified, data.note) == (False, "4 of 4 files are not byte for byte NIST's")
    assert "".join(data.classes) == "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"

    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (shared / "emnist" / "EMNIST" / "raw").glob("emnist-balanced-*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    for train, split in ((True, data.train), (False, data.test)):
        expected = torchvision.datasets.EMNIST(tmp_path, split="balanced", train=train)
        assert torch.equal(split.images, expected.data.transpose(1, 2))
        assert torch.equal(split.labels, expected.targets)
    unpacked = open_prepared(tmp_path)
    assert torch.equal(unpacked.test.images, data.test.images)
    assert unpacked.note == "4 of 4 files are unpacked, and cannot be compared with NIST's"
