"""The leaderboard of a search, best trial first: as CSV and Markdown files, and its first rows on the console."""

import shlex
from pathlib import Path
from typing import Any

from rich.table import Table

from partrain.console import console
from partrain.report.formatting import format_percent
from partrain.report.tables import markdown_table, write_csv
from partrain.runs.command import local_command
from partrain.storage import checkpoint
from partrain.storage.run_folder import PAGE
from partrain.tuning.record import SearchRecord
from partrain.tuning.values import format_values

_CONSOLE_ROWS = 10


def leaderboard_rows(record: SearchRecord) -> list[dict[str, Any]]:
    """Return a row for each trial, best first, for the files, the console and the page.

    `epochs` and `score` are those of the last rung that the trial has finished. Without a score it has no rank.
    """
    ranked = record.ranked()
    names = list(ranked[0].values) if ranked else []
    return [
        {
            "rank": rank if trial.score is not None else None,
            "configuration": trial.index,
            "bracket": trial.bracket,
            "epochs": trial.epochs,
            "score": trial.score,
            **{name: trial.values[name] for name in names},
            "outcome": record.outcome(trial),
        }
        for rank, trial in enumerate(ranked, start=1)
    ]


def write_leaderboard(folder: Path) -> None:
    """Write leaderboard.csv and leaderboard.md into the search's `folder`, with the results so far."""
    rows = leaderboard_rows(SearchRecord.read(folder))
    write_csv(folder / "leaderboard.csv", rows)
    checkpoint.write_text(folder / "leaderboard.md", markdown_table(rows))


def print_results(folder: Path) -> None:
    """Print the best trials, the winner with the command that trains it in full, and where the files are."""
    record = SearchRecord.read(folder)
    console.print(_console_table(record))
    best = record.results["best"]
    console.print(
        f"Best: configuration {best['index']} ({format_values(best['values'])}), {record.metric_label} "
        f"{record.format_score(best['score'])}, test accuracy {format_percent(best['test_accuracy'])}",
    )
    if best["command"]:
        command = local_command("train", shlex.split(best["command"])[2:])  # Without "partrain train".
        console.print(f"To train it on all training images: {command}", soft_wrap=True)
    console.print(f"Search folder: {folder}")
    if (folder / PAGE).exists():
        console.print(f"Page: {folder / PAGE}")


def _console_table(record: SearchRecord) -> Table:
    """Return the first rows of the leaderboard."""
    rows = leaderboard_rows(record)
    results = record.results
    title = (
        f"{record.method}: the best of {results['configurations']} configurations, {results['epochs_trained']} epochs "
        f"trained in {results['seconds']:.1f} s"
    )
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column.replace("score", record.metric_label), justify="right")
    for row in rows[:_CONSOLE_ROWS]:
        table.add_row(*(_console_cell(record, column, value) for column, value in row.items()))
    return table


def _console_cell(record: SearchRecord, column: str, value: Any) -> str:
    """Return a cell's text; the reason of a failure is left out, as it has been printed before."""
    if column == "score":
        return record.format_score(value)
    if column == "outcome":
        return str(value).partition(":")[0]
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
