"""The page of a search: what it found, how it went on, and the command that trains the winner in full."""

from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from partrain.launch.machine import described
from partrain.report.formatting import duration, setting, share
from partrain.report.page import Stat, environment, make_table, sharded_pages
from partrain.storage import checkpoint
from partrain.storage.run_folder import PAGE
from partrain.tuning.figures import figures
from partrain.tuning.record import Bracket, SearchRecord

_PACKED = {True: "models packed together", False: "models one by one", None: ""}


def write_search_page(folder: Path, refresh: float | None = None) -> Path:
    """Write report.html into the search's `folder`, from what is there so far.

    `refresh`: the search goes on, and the browser is to look again after this many seconds.
    """
    record = SearchRecord.read(folder)
    text = (
        environment()
        .get_template("tuning/templates/search.html.j2")
        .render(
            title=f"{record.method} on {record.data}" if record.data else record.method,
            record=record,
            refresh=refresh,
            updated=f"{datetime.now():%H:%M:%S}",
            stats=headline(record),
            winner=winner_facts(record),
            command=record.best.get("command"),
            advances=[advance(bracket) for bracket in record.brackets],
            plots=figures(record),
            leaderboard=make_table(*leaderboard(record)),
            sharded=sharded_pages(folder),
            machine=described(record.machine) if record.machine else "",
            config=yaml.safe_dump(record.settings, sort_keys=False) if record.settings else "",
        )
    )
    checkpoint.write_text(folder / PAGE, text, sync=refresh is None)
    return folder / PAGE


def headline(record: SearchRecord) -> list[Stat]:
    """The search in four numbers."""
    best, failed = record.winner, sum(bool(each.failure) for each in record.configurations.values())
    so_far = "" if record.results else f"of {sum(epochs for _, epochs in record.steps()):,}, "
    drawn, brackets = len(record.configurations), len(record.brackets)
    standing = "the winner's" if record.results else "the best so far"
    lost = f", {failed} failed" if failed else ""
    return [
        Stat(
            record.metric_label,
            record.shown(best.score) if best else "none yet",
            f"{standing}, after {_counted(best.epochs, 'epoch')}" if best else "",
        ),
        Stat("configurations" if drawn != 1 else "configuration", f"{drawn:,}", _counted(brackets, "bracket") + lost),
        Stat("epochs trained", f"{record.epochs:,}", so_far + "all configurations together"),
        Stat("search time", duration(record.seconds), _PACKED[record.packed]),
    ]


def winner_facts(record: SearchRecord) -> list[tuple[str, str]]:
    """What the best configuration is, and how good; empty before the first rung is done."""
    winner = record.winner
    if winner is None:
        return []
    facts = [(name, setting(value)) for name, value in winner.values.items()]
    facts.append((record.metric_label, f"{record.shown(winner.score)} after {_counted(winner.epochs, 'epoch')}"))
    accuracy, images = record.best.get("test_accuracy"), record.provenance.get("test_images")
    if accuracy is not None:
        facts.append(("test accuracy", share(accuracy) + (f" on {images:,} images" if images else "")))
    return facts


class Advance(NamedTuple):
    """How far a bracket is: `done` from 0 to 1, and in words."""

    name: str
    done: float
    state: str


def advance(bracket: Bracket) -> Advance:
    """From the rungs that are done."""
    steps = list(bracket.steps())
    done = sum(epochs for rung, epochs in steps if rung.done) / max(1, sum(epochs for _, epochs in steps))
    following = next((rung for rung, _ in steps if not rung.done), None)
    if following is None:
        return Advance(f"bracket {bracket.number}", done, "done")
    models = _counted(following.planned, "configuration")
    state = f"rung {following.number}: {models} until epoch {following.epochs}"
    return Advance(f"bracket {bracket.number}", done, state)


def leaderboard(record: SearchRecord) -> tuple[list[dict[str, Any]], list[str | None]]:
    """A row per configuration, best first, and where its own page is, if it has one."""
    rows, links = [], []
    for rank, each in enumerate(record.ranked(), start=1):
        score = None if each.score is None else round(record.scaled(each.score), 2 if record.higher_is_better else 4)
        row: dict[str, Any] = {"configuration": each.index, "rank": None if score is None else rank}
        row |= {"score, %" if record.higher_is_better else "score": score, "epochs": each.epochs}
        row |= {"bracket": each.bracket, "outcome": record.outcome(each)}
        rows.append(row | {name: _rounded(each.values.get(name)) for name in record.forms})
        page = f"configurations/{each.index}/{PAGE}"
        links.append(page if (record.folder / page).exists() else None)
    return rows, links


def _rounded(value: Any) -> Any:
    """A number stays one, which a table sorts by."""
    return float(f"{value:.4g}") if isinstance(value, float) else setting(value)


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}{'s' * (number != 1)}"
