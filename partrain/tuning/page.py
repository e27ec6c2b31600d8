"""The page of a search: its winner and the command that trains it in full, its figures and its leaderboard."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from partrain.launch.machine import describe_machine
from partrain.report.formatting import format_duration, format_percent, format_quantity, format_setting
from partrain.report.page import Link, Stat, make_table, sharded_training_pages, template_environment
from partrain.storage import checkpoint
from partrain.storage.run_folder import PAGE
from partrain.tuning.figures import figures
from partrain.tuning.folder import SearchFolder
from partrain.tuning.leaderboard import leaderboard_rows
from partrain.tuning.record import RungRecord, SearchRecord

_PACKED = {True: "networks trained in packs", False: "networks trained one by one", None: ""}


def write_search_page(folder: Path, refresh: float | None = None) -> Path:
    """Write report.html into the search's `folder`, with the results so far, and return its path.

    Args:
        folder: The folder of the search.
        refresh: Seconds after which the browser reloads the page, while the search is under way.
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
            command=record.best_result.get("command"),
            brackets=[bracket_progress(number, rungs) for number, rungs in record.brackets.items()],
            plots=figures(record),
            leaderboard=make_table(leaderboard(record)),
            sharded=sharded_training_pages(folder),
            machine=describe_machine(record.machine) if record.machine else "",
            config=yaml.safe_dump(record.settings, sort_keys=False) if record.settings else "",
        )
    )
    checkpoint.write_text(folder / PAGE, text, sync=refresh is None)
    return folder / PAGE


def headline(record: SearchRecord) -> list[Stat]:
    """Return the four numbers at the head of the page: score, configurations, epochs and time."""
    return [_score_stat(record), _trials_stat(record), _epochs_stat(record), _time_stat(record)]


def _score_stat(record: SearchRecord) -> Stat:
    """Return the best score."""
    if record.winner is None:
        return Stat(record.metric_label, "none yet", "")
    owner = "of the winner" if record.results else "of the best so far"
    note = f"{owner}, after {format_quantity(record.winner.epochs, 'epoch')}"
    return Stat(record.metric_label, record.format_score(record.winner.score), note)


def _trials_stat(record: SearchRecord) -> Stat:
    """Return how many trials and brackets there are, and how many trials failed."""
    num_trials = len(record.trials)
    num_failed = sum(bool(trial.failure) for trial in record.trials.values())
    note = format_quantity(len(record.brackets), "bracket") + (f", {num_failed} failed" if num_failed else "")
    return Stat("configurations" if num_trials != 1 else "configuration", f"{num_trials:,}", note)


def _epochs_stat(record: SearchRecord) -> Stat:
    """Return how many epochs have been trained, and until the search has finished, of how many."""
    planned = "" if record.results else f"of {sum(rung.epochs_trained for rung in record.rungs()):,}, "
    return Stat("epochs trained", f"{record.epochs_trained:,}", planned + "over all configurations")


def _time_stat(record: SearchRecord) -> Stat:
    """Return how long the search has taken."""
    return Stat("search time", format_duration(record.seconds), _PACKED[record.packed])


def winner_facts(record: SearchRecord) -> list[tuple[str, str]]:
    """Return the winner's settings and scores as names and texts; empty before the first rung has ended."""
    winner = record.winner
    if winner is None:
        return []
    facts = [(name, format_setting(value)) for name, value in winner.values.items()]
    score = f"{record.format_score(winner.score)} after {format_quantity(winner.epochs, 'epoch')}"
    facts.append((record.metric_label, score))
    accuracy, num_images = record.best_result.get("test_accuracy"), record.provenance.get("test_images")
    if accuracy is not None:
        facts.append(("test accuracy", format_percent(accuracy) + (f" on {num_images:,} images" if num_images else "")))
    return facts


@dataclass(frozen=True)
class BracketProgress:
    """The progress of a bracket, as a bar and in words."""

    name: str
    fraction: float
    """The part of the bracket's epochs that have been trained, 0 <= fraction <= 1."""
    state: str


def bracket_progress(bracket: int, rungs: Sequence[RungRecord]) -> BracketProgress:
    """Return the progress of the bracket with this number, from those of its `rungs` that have ended."""
    epochs_done = sum(rung.epochs_trained for rung in rungs if rung.is_finished)
    fraction = epochs_done / max(1, sum(rung.epochs_trained for rung in rungs))
    current = next((rung for rung in rungs if not rung.is_finished), None)
    state = "finished"
    if current is not None:
        size = format_quantity(current.plan.num_trials, "configuration")
        state = f"rung {current.number}: {size} up to epoch {current.epochs}"
    return BracketProgress(f"bracket {bracket}", fraction, state)


def leaderboard(record: SearchRecord) -> list[dict[str, Any]]:
    """Return the rows of the leaderboard with scores in the page's units, and links to those runs that have a page."""
    rows = []
    for values in leaderboard_rows(record):
        page = SearchFolder(record.folder).run_folder(values["configuration"]) / PAGE
        href = str(page.relative_to(record.folder)) if page.exists() else None
        row = {"configuration": Link(values["configuration"], href), "rank": values["rank"]}
        row["score, %" if record.higher_is_better else "score"] = _rounded_score(record, values["score"])
        row |= {name: values[name] for name in ("epochs", "bracket", "outcome")}
        row |= {name: _rounded_setting(values.get(name)) for name in record.distributions}
        rows.append(row)
    return rows


def _rounded_score(record: SearchRecord, score: float | None) -> float | None:
    """Return a score in the unit of the page, rounded to two digits of a percentage or four of a loss."""
    if score is None:
        return None
    return round(record.axis_value(score), 2 if record.higher_is_better else 4)


def _rounded_setting(value: Any) -> Any:
    """Return a float with four digits, which a table can sort by, or the text of any other value."""
    return float(f"{value:.4g}") if isinstance(value, float) else format_setting(value)
