"""Tests that the page of a run follows its training, and no longer reloads itself at the end."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripting import small_settings, wait_until

import partrain
from partrain.data import Dataset
from partrain.report import run_page as page
from partrain.report.settings import ReportSettings
from partrain.runs.page import LivePage
from partrain.storage.run_folder import PAGE

RELOAD = 'http-equiv="refresh"'


def test_a_page_is_written_while_training_and_once_more_at_the_end(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = page.write_page

    def record(*arguments: Any) -> Path:
        path = write(*arguments)
        written.append(path.read_text())
        return path

    monkeypatch.setattr(page, "write_page", record)
    settings = small_settings(report=ReportSettings(refresh=0.2))
    settings.train.epochs = 20
    partrain.run(settings, tmp_path, dataset=small, show_progress=False)
    assert len(written) >= 2
    assert all(RELOAD in text for text in written[:-1])
    assert RELOAD not in written[-1]
    assert (tmp_path / "report.html").read_text() == written[-1]


@pytest.mark.parametrize("report", [ReportSettings(page=False), ReportSettings(page=False, refresh=0.1)])
def test_no_page_where_none_is_wanted(report: ReportSettings, small: Dataset, tmp_path: Path) -> None:
    settings = replace(small_settings(), report=report)
    settings = replace(settings, train=replace(settings.train, epochs=1))
    partrain.run(settings, tmp_path, dataset=small, show_progress=False)
    assert (tmp_path / "results.json").exists()
    assert not (tmp_path / "report.html").exists()


def test_a_run_that_fails_no_longer_says_that_it_trains(small: Dataset, tmp_path: Path) -> None:
    def stopped() -> None:
        with LivePage(tmp_path, small, ReportSettings(refresh=0.1)):
            wait_until((tmp_path / PAGE).exists)
            assert RELOAD in (tmp_path / PAGE).read_text()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert RELOAD not in (tmp_path / PAGE).read_text()
