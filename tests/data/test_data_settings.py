"""Settings of data sets: which are accepted, and where files and caches are."""

from __future__ import annotations

from pathlib import Path

import pytest

from partrain.data import EMNIST_SPLITS, DataSettings
from partrain.errors import UserError


def message(**settings: object) -> str:
    """Return the message by which the settings are refused."""
    with pytest.raises(UserError) as raised:
        DataSettings(**settings)  # type: ignore[arg-type]
    return str(raised.value)


def test_an_unknown_data_set_is_answered_with_the_known_ones() -> None:
    expected = "data.name=cifar10 is unknown; known: emnist, fashion_mnist, glyphs, kmnist, mnist"
    assert message(name="cifar10") == expected


def test_an_unknown_split_is_answered_with_the_known_ones() -> None:
    expected = "data.split=bycase is unknown; known: balanced, byclass, bymerge, digits, letters, mnist"
    assert message(name="emnist", split="bycase") == expected


@pytest.mark.parametrize("name", ["glyphs", "mnist", "fashion_mnist", "kmnist"])
def test_only_emnist_has_splits(name: str) -> None:
    assert message(name=name, split="balanced") == (
        f"data.split=balanced: {name} has no splits. Leave it out, or use emnist."
    )


def test_limits_start_at_one() -> None:
    assert message(limit_train=0) == "data.limit_train must be at least 1, got 0"
    assert message(limit_test=-5) == "data.limit_test must be at least 1, got -5"


def test_emnist_without_a_split_is_balanced() -> None:
    assert DataSettings(name="emnist").split == "balanced"
    assert [DataSettings(name="emnist", split=split).split for split in EMNIST_SPLITS] == list(EMNIST_SPLITS)
    assert DataSettings(name="mnist").split is None


def test_the_cache_is_the_settings_then_the_environments_then_the_platforms(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PARTRAIN_CACHE", str(tmp_path / "environment"))
    assert DataSettings(cache=str(tmp_path / "own")).cache_folder == tmp_path / "own"
    assert DataSettings().cache_folder == tmp_path / "environment"
    assert DataSettings().root_folder == tmp_path / "environment" / "downloads"
    assert DataSettings(root=str(tmp_path / "root")).root_folder == tmp_path / "root"

    monkeypatch.delenv("PARTRAIN_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert DataSettings().cache_folder == tmp_path / "xdg" / "partrain"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert DataSettings().cache_folder == tmp_path / ".cache" / "partrain"
    monkeypatch.setattr("sys.platform", "darwin")
    assert DataSettings().cache_folder == tmp_path / "Library" / "Caches" / "partrain"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert DataSettings().cache_folder == tmp_path / "local" / "partrain" / "cache"
