"""Settings of data sets: which are accepted, and where files and caches are."""

from __future__ import annotations

from pathlib import Path

import pytest

from partrain.data import DATA_SETS, EMNIST_SPLITS
from partrain.data.settings import EMNIST, MNIST, Glyphs
from partrain.errors import UserError


def message(**settings: object) -> str:
    """Return the message by which the settings are refused."""
    with pytest.raises(UserError) as raised:
        DATA_SETS.from_dict({"name": "glyphs", **settings})
    return str(raised.value)


def test_an_unknown_data_set_is_answered_with_the_known_ones() -> None:
    expected = "data=cifar10 is unknown; known: emnist, fashion_mnist, glyphs, kmnist, mnist"
    assert message(name="cifar10") == expected


def test_an_unknown_split_is_answered_with_the_known_ones() -> None:
    expected = "data.split=bycase is unknown; known: balanced, byclass, bymerge, digits, letters, mnist"
    assert message(name="emnist", split="bycase") == expected


@pytest.mark.parametrize("name", ["glyphs", "mnist", "fashion_mnist", "kmnist"])
def test_only_emnist_has_splits(name: str) -> None:
    assert message(name=name, split="balanced") == (
        "data.split is a setting of data=emnist; add data=emnist, or leave it out"
    )


def test_limits_start_at_one() -> None:
    assert message(limit_train=0) == "data.limit_train must be at least 1, got 0"
    assert message(limit_test=-5) == "data.limit_test must be at least 1, got -5"


def test_emnist_without_a_split_is_balanced() -> None:
    assert EMNIST().split == "balanced"
    assert [EMNIST(split=split).split for split in EMNIST_SPLITS] == list(EMNIST_SPLITS)


def test_the_cache_is_the_settings_then_the_environments_then_the_platforms(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PARTRAIN_CACHE", str(tmp_path / "environment"))
    assert Glyphs(cache=str(tmp_path / "own")).cache_folder == tmp_path / "own"
    assert Glyphs().cache_folder == tmp_path / "environment"
    assert MNIST().root_folder == tmp_path / "environment" / "downloads"
    assert MNIST(root=str(tmp_path / "root")).root_folder == tmp_path / "root"

    monkeypatch.delenv("PARTRAIN_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Glyphs().cache_folder == tmp_path / "xdg" / "partrain"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Glyphs().cache_folder == tmp_path / ".cache" / "partrain"
    monkeypatch.setattr("sys.platform", "darwin")
    assert Glyphs().cache_folder == tmp_path / "Library" / "Caches" / "partrain"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert Glyphs().cache_folder == tmp_path / "local" / "partrain" / "cache"
