"""The page of a search: what it found, how it went on, and the command that trains the winner in full."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from partrain.launch.machine import described
from partrain.report.formatting import format_duration, format_percent, format_setting
from partrain.report.page import Link, Stat, make_table, sharded_training_pages, template_environment
from partrain.storage import checkpoint
from partrain.storage.run_folder import PAGE
from partrain.tuning.figures import figures
from partrain.tuning.folder import SearchFolder
from partrain.tuning.leaderboard import leaderboard_rows
from partrain.tuning.record import RungState, SearchRecord

_PACKED = {True: "models packed together", False: "models one by one", None: ""}


def write_search_page(folder: Path, refresh: float | None = None) -> Path:
    """Write report.html into the search's `folder`, from what is there so far.

    `refresh`: the search goes on, and the browser is to look again after this many seconds.
    """
    record = SearchRecord.read(folder)
    text = (
        template_environment()
        .get_template("tuning/templates/search.html.j2")
        .render(
            title=f"{record.method} on {record.data}" if record.data else record.method,
            record=record,
            refresh=refresh,
            updated=f"{datetime.now():%H:%M:%S}",
            stats=headline(record),
            winner=winner_facts(record),
            command=record.best.get("command"),
            advances=[advance(number, rungs) for number, rungs in record.brackets.items()],
            plots=figures(record),
            leaderboard=make_table(leaderboard(record)),
            sharded=sharded_training_pages(folder),
            machine=described(record.machine) if record.machine else "",
            config=yaml.safe_dump(record.settings, sort_keys=False) if record.settings else "",
        )
    )
    checkpoint.write_text(folder / PAGE, text, sync=refresh is None)
    return folder / PAGE


def headline(record: SearchRecord) -> list[Stat]:
    """The search in four numbers."""
    best, failed = record.winner, sum(bool(each.failure) for each in record.standings.values())
    so_far = "" if record.results else f"of {sum(rung.epochs_trained for rung in record.rungs()):,}, "
    drawn, brackets = len(record.standings), len(record.brackets)
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
        Stat("search time", format_duration(record.seconds), _PACKED[record.packed]),
    ]


def winner_facts(record: SearchRecord) -> list[tuple[str, str]]:
    """What the best configuration is, and how good; empty before the first rung is done."""
    winner = record.winner
    if winner is None:
        return []
    facts = [(name, format_setting(value)) for name, value in winner.values.items()]
    facts.append((record.metric_label, f"{record.shown(winner.score)} after {_counted(winner.epochs, 'epoch')}"))
    accuracy, images = record.best.get("test_accuracy"), record.provenance.get("test_images")
    if accuracy is not None:
        facts.append(("test accuracy", format_percent(accuracy) + (f" on {images:,} images" if images else "")))
    return facts


class Advance(NamedTuple):
    """How far a bracket is: `done` from 0 to 1, and in words."""

    name: str
    done: float
    state: str


def advance(bracket: int, rungs: Sequence[RungState]) -> Advance:
    """How far the bracket with this number is, from those of its `rungs` that are done."""
    done = sum(rung.epochs_trained for rung in rungs if rung.done)
    fraction = done / max(1, sum(rung.epochs_trained for rung in rungs))
    following = next((rung for rung in rungs if not rung.done), None)
    if following is None:
        return Advance(f"bracket {bracket}", fraction, "done")
    models = _counted(following.plan.configurations, "configuration")
    state = f"rung {following.number}: {models} until epoch {following.epochs}"
    return Advance(f"bracket {bracket}", fraction, state)


def leaderboard(record: SearchRecord) -> list[dict[str, Any]]:
    """Return the rows of the leaderboard in the page's units, with links to the configurations' own pages."""
    rows = []
    for each in leaderboard_rows(record):
        page = SearchFolder(record.folder).run_folder(each["configuration"]) / PAGE
        href = str(page.relative_to(record.folder)) if page.exists() else None
        row = {"configuration": Link(each["configuration"], href), "rank": each["rank"]}
        row["score, %" if record.higher_is_better else "score"] = _scaled(record, each["score"])
        row |= {name: each[name] for name in ("epochs", "bracket", "outcome")}
        rows.append(row | {name: _rounded(each.get(name)) for name in record.forms})
    return rows


def _scaled(record: SearchRecord, score: float | None) -> float | None:
    return None if score is None else round(record.scaled(score), 2 if record.higher_is_better else 4)


def _rounded(value: Any) -> Any:
    """A number stays one, which a table sorts by."""
    return float(f"{value:.4g}") if isinstance(value, float) else format_setting(value)


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}{'s' * (number != 1)}"
