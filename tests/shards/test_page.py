"""Tests of the page of a sharded training: its timeline, its numbers and its table of models."""

from pathlib import Path

import pytest
from pages import read_figures, read_table, visible_text

from partrain.runs.page import write_run_page
from partrain.shards.page import write_shards_page
from partrain.shards.timeline import TIME_COLUMNS, UNIT_COLUMNS, read_timeline
from partrain.storage.run_folder import TIMELINE

Unit = tuple[int, str, int, int, str, float, float]


def write_timeline(folder: Path, *sessions: list[Unit]) -> None:
    """Write timeline.csv with the units of each session: device, model, step, shard, passes, begin and end in seconds."""
    rows = [",".join((*UNIT_COLUMNS, *TIME_COLUMNS))]
    for session, units in enumerate(sessions):
        for *unit, begin, end in units:
            moments = [1000 * (1 + session) + moment for moment in (begin - 0.1, begin, begin, end, end, end + 0.1)]
            rows.append(",".join(map(str, (session, *unit, *moments))))
    (folder / TIMELINE).write_text("\n".join(rows) + "\n")


UNITS: list[Unit] = [
    (0, "one", 0, 0, "forward", 0.0, 1.0),
    (1, "one", 0, 1, "both", 1.0, 3.0),
    (0, "one", 0, 0, "backward", 3.0, 4.0),
    (1, "two", 0, 0, "both", 0.0, 1.0),
]


def test_a_row_for_each_device_and_a_colour_for_each_model(tmp_path: Path) -> None:
    write_timeline(tmp_path, UNITS)
    page = write_shards_page(tmp_path)
    drawn = read_figures(page)
    one, two = drawn["Devices over time"]["data"]
    assert (one["name"], two["name"]) == ("one", "two")
    assert one["x"] == [0.0, 1.0, None, 1.0, 3.0, None, 3.0, 4.0, None]
    assert one["y"] == ["device 0", "device 0", None, "device 1", "device 1", None, "device 0", "device 0", None]
    assert one["line"]["color"] != two["line"]["color"]
    assert "one, step 0, shard 1, both" in one["text"]
    busy = {line["name"]: line["y"] for line in drawn["Device utilisation"]["data"]}
    assert sum(busy["device 0"]) / len(busy["device 0"]) == pytest.approx(50)
    assert sum(busy["device 1"]) / len(busy["device 1"]) == pytest.approx(75)
    text = visible_text(page.read_text())
    assert "busy 62.5% of the time" in text
    assert "4 units of 3 shards" in text
    assert (
        "no schedule takes less than 4.0 s (the longest model's units, one after another) "
        "or 2.5 s (an equal share of all computation)"
    ) in text
    assert read_table(page, "Models")[1:] == [
        ["one", "2", "1", "4.0", "4,000.0", "4.0"],
        ["two", "1", "1", "1.0", "1,000.0", "1.0"],
    ]


def test_of_many_units_those_in_the_middle_are_drawn(tmp_path: Path) -> None:
    write_timeline(tmp_path, [(0, "one", n, 0, "both", n, n + 1.0) for n in range(9)])
    assert [row.step for row in read_timeline(tmp_path / TIMELINE)] == list(range(9))
    page = write_shards_page(tmp_path, units_per_device=3)
    (line,) = read_figures(page)["Devices over time"]["data"]
    assert line["x"] == [3.0, 4.0, None, 4.0, 5.0, None, 5.0, 6.0, None]
    assert "3 units from the middle of 9" in page.read_text()


def test_nothing_was_done(tmp_path: Path) -> None:
    write_timeline(tmp_path)
    assert read_figures(write_shards_page(tmp_path)) == {}


def test_the_time_between_two_sessions_is_left_out(tmp_path: Path) -> None:
    write_timeline(tmp_path, UNITS, [(0, "two", 1, 0, "both", 0.0, 2.0)])
    assert [(row.session, row.begin, row.end) for row in read_timeline(tmp_path / TIMELINE)][-1] == (1, 4.0, 6.0)
    page = write_shards_page(tmp_path)
    text = visible_text(page.read_text())
    assert "time, 2 sessions" in text
    assert "busy 58.3% of the time" in text
    for name in ("Devices over time", "Device utilisation"):
        (line,) = read_figures(page)[name]["layout"]["shapes"]
        assert line["x0"] == 4.0


def test_pages_of_runs_and_searches_lead_to_it(tmp_path: Path) -> None:
    for name in ("0", "recovery"):
        folder = tmp_path / "shards" / name
        folder.mkdir(parents=True)
        write_timeline(folder, UNITS)
        write_shards_page(folder)
    text = write_run_page(tmp_path).read_text()
    assert "Pages of the models that were trained in shards: " in text
    for name in ("0", "recovery"):
        assert f'<a href="shards/{name}/report.html">{name}</a>' in text
