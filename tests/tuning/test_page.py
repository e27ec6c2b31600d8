"""Tests of a search's page, made from the files of searches that are finished, under way, killed or empty."""

import re
from pathlib import Path

import pytest
from browser import open_page
from made_search import COMMAND, NAN, make_search, of_bracket, rung
from pages import read_figures, read_table, visible_text

from partrain.storage import checkpoint
from partrain.tuning.page import write_search_page
from partrain.tuning.record import SearchRecord


def test_the_headline_and_the_winner(search: Path, searched: Path) -> None:
    best = checkpoint.read_json(search / "results.json")["best"]
    text = searched.read_text()
    said = " ".join(visible_text(text[text.index("<header>") : text.index('id="rungs"')].replace("<", " <")).split())
    assert said.startswith(
        "Hyperband on glyphs letters Searched settings: train.lr, network.width, train.optimizer, network.dropout "
        "packed finished"
    )
    assert f"of the winner, after 27 epochs {100 * best['score']:.2f} % validation accuracy" in said
    assert "4 brackets, 2 failed 49 configurations" in said
    assert "over all configurations 350 epochs trained" in said
    assert "networks trained in packs 1 min 15 s search time" in said
    assert f"Configuration {best['index']} train.lr {best['values']['train.lr']:.4g} network.width" in said
    assert "test accuracy 86.12 % on 7,520 images" in said
    assert f'<pre id="command">{COMMAND}</pre>' in text
    assert "http-equiv" not in text


def test_the_leaderboard_leads_to_the_runs_that_have_a_page(tmp_path: Path) -> None:
    search = make_search(tmp_path)
    best = checkpoint.read_json(search / "results.json")["best"]
    (search / f"configurations/{best['index']}/report.html").touch()
    page = write_search_page(search)
    head, *rows = read_table(page, "Leaderboard")
    assert head[:6] == ["configuration", "rank", "score, %", "epochs", "bracket", "outcome"]
    assert head[6:] == ["train.lr", "network.width", "train.optimizer", "network.dropout"]
    assert rows[0][:6] == [str(best["index"]), "1", f"{100 * best['score']:.2f}".rstrip("0"), "27", "3", "best"]
    assert [row[1] for row in rows] == [*map(str, range(1, 48)), "", ""]
    assert [row[0] for row in rows[-2:]] == ["31", "3"]
    assert [row[5] for row in rows[-2:]] == [f"failed: {NAN}"] * 2
    outcomes = [row[5] for row in rows]
    assert (outcomes.count("trained in full"), outcomes.count("dropped")) == (7, 39)
    assert re.findall(r'<a href="(configurations[^"]*)"', page.read_text()) == [
        f"configurations/{best['index']}/report.html"
    ]


def test_a_lower_loss_is_better(tmp_path: Path) -> None:
    search = make_search(tmp_path, metric="validation_loss")
    record = SearchRecord.read(search)
    best = checkpoint.read_json(search / "results.json")["best"]
    assert record.ranked()[0].index == best["index"]
    full = [trial.score or 0 for trial in record.ranked() if trial.epochs == 27]
    assert full == sorted(full)
    drawn = read_figures(write_search_page(search))
    assert drawn["Best score so far"]["data"][0]["y"][-1] == best["score"]
    dots = of_bracket(drawn["Scores by rung"], 3, "kept")
    assert dots["y"] == sorted(dots["y"], reverse=True)
    assert f"{best['score']:.4f}" in visible_text((search / "report.html").read_text())


def test_equal_scores_are_ranked_by_index(tmp_path: Path) -> None:
    search = make_search(tmp_path, [{"number": 0, "rungs": [{"configurations": 3, "epochs": 2}]}], rounds=1)
    result = rung(search, 0, 0) | {"scores": {"0": 0.5, "1": 0.75, "2": 0.75}, "failed": {}}
    checkpoint.write_json(search / "rungs/0-0.json", result)
    record = SearchRecord.read(search)
    assert [trial.index for trial in record.ranked()] == [1, 2, 0]
    assert [record.outcome(trial) for trial in record.ranked()] == ["best so far", "trained in full", "trained in full"]


def test_a_search_under_way(tmp_path: Path) -> None:
    search = make_search(tmp_path, rounds=2)
    (search / "rungs/3-1.json").unlink()  # Killed between two rungs of the round.
    text = write_search_page(search, refresh=5).read_text()
    assert '<meta http-equiv="refresh" content="5">' in text
    assert re.search(r"under way, updated \d\d:\d\d:\d\d", text)
    assert 'id="command"' not in text
    assert "of 356, over all configurations" in text
    states = [visible_text(html) for html in re.findall(r'<span class="state muted">(.*?)</span>', text)]
    assert states == [
        "rung 1: 9 configurations up to epoch 3",
        "rung 1: 4 configurations up to epoch 9",
        "rung 0: 6 configurations up to epoch 9",
        "rung 0: 4 configurations up to epoch 27",
    ]
    assert re.findall(r'aria-valuenow="(\d+)"', text) == ["32", "46", "0", "0"]  # 26 of 80 epochs, 36 of 78.
    rows = read_table(search / "report.html", "Leaderboard")[1:]
    assert rows[0][5] == "promoted"  # The best so far.
    assert [row[5] for row in rows].count("promoted") == 13
    ended = write_search_page(search).read_text()
    assert "http-equiv" not in ended
    assert "not finished" in ended


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_search_of_which_nothing_came(rounds: int, tmp_path: Path) -> None:
    brackets = [{"number": 0, "rungs": [{"configurations": 3, "epochs": 2}]}]
    page = write_search_page(make_search(tmp_path, brackets, rounds, failing=[(0, 0), (0, 1), (0, 2)]), refresh=5)
    outcome = f"failed: {NAN}" if rounds else "waiting"
    assert [row[3] for row in read_table(page, "Leaderboard")[1:]] == [outcome] * 3
    assert list(read_figures(page)) == ["Scores by rung"] * rounds
    assert "none yet" in page.read_text()


@pytest.mark.parametrize("files", [[], ["search.json"], ["search.json", "configurations.json"]])
def test_a_folder_of_a_search_that_has_just_begun(search: Path, files: list[str], tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).write_bytes((search / name).read_bytes())
    page = write_search_page(tmp_path)
    assert read_figures(page) == {}
    assert ("Not started" in page.read_text()) == (not files)


def test_names_are_text(tmp_path: Path) -> None:
    search = make_search(tmp_path, [{"number": 0, "rungs": [{"configurations": 3, "epochs": 2}]}], failing=[])
    drawn = checkpoint.read_json(search / "configurations.json")
    drawn[0]["values"]["train.optimizer"] = "</script><b>"
    checkpoint.write_json(search / "configurations.json", drawn)
    page = write_search_page(search)
    assert "<b>" not in re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.DOTALL)
    texts = of_bracket(read_figures(page)["Scores by rung"], 0, "kept")["text"]
    assert sum("train.optimizer &lt;/script&gt;&lt;b&gt;" in text for text in texts) == 1


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_is_drawn(search: Path, searched: Path, tmp_path: Path, *, dark: bool, width: int) -> None:
    script = """
      const all = (selector) => [...document.querySelectorAll(selector)];
      answers.drawn = all(".plot").map((place) => place.querySelector(".main-svg") !== null);
      answers.wider = document.documentElement.scrollWidth > innerWidth;
      answers.axes = all(".parcoords .axis-title").length;
      answers.ink = [...new Set(all(".axis-title, .xtitle").map((title) => getComputedStyle(title).fill))];
      all("#leaderboard th button")[0].click();
      answers.first = all("#leaderboard tbody tr").slice(0, 3).map((row) => row.cells[0].textContent);
    """
    answers, console = open_page(searched, script, tmp_path, dark=dark, width=width)
    assert [line for line in console if "WebGL" not in line] == []  # It warns that it is slow without a GPU.
    assert answers == {
        "drawn": [True] * 5,
        "wider": False,
        "ink": ["rgb(230, 235, 240)" if dark else "rgb(22, 32, 43)"],
        "axes": 6,
        "first": ["0", "1", "2"],
        "requests": [],
    }
