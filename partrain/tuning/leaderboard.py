"""The leaderboard of a search, best first: as rows in files, and its head on the console."""

from pathlib import Path
from typing import Any

from rich.table import Table

from partrain.console import console
from partrain.report.formatting import format_percent
from partrain.report.tables import markdown_table, write_csv
from partrain.storage import checkpoint
from partrain.storage.run_folder import PAGE
from partrain.tuning.record import SearchRecord
from partrain.tuning.values import described

_SHOWN = 10  # configurations on the console


def leaderboard_rows(record: SearchRecord) -> list[dict[str, Any]]:
    """A row per configuration, best first, from which files, console and page are made.

    `epochs` and `score` are of the last rung that it has come through; None: of none yet.
    """
    ranked = record.ranked()
    names = list(ranked[0].values) if ranked else []
    return [
        {
            "rank": rank if each.score is not None else None,
            "configuration": each.index,
            "bracket": each.bracket,
            "epochs": each.epochs,
            "score": each.score,
            **{name: each.values[name] for name in names},
            "outcome": record.outcome(each),
        }
        for rank, each in enumerate(ranked, start=1)
    ]


def write_leaderboard(folder: Path) -> None:
    """Write leaderboard.csv and leaderboard.md into the search's `folder`, from what is there so far."""
    found = leaderboard_rows(SearchRecord.read(folder))
    write_csv(folder / "leaderboard.csv", found)
    checkpoint.write_text(folder / "leaderboard.md", markdown_table(found))


def print_results(folder: Path) -> None:
    """The best few, the winner with the command that trains it in full, and where the rest is."""
    record = SearchRecord.read(folder)
    console.print(_table(record))
    results = record.results
    best = results["best"]
    console.print(
        f"Best: configuration {best['index']} ({described(best['values'])}): {record.metric.replace('_', ' ')} "
        f"{record.shown(best['score'])}, test accuracy {format_percent(best['test_accuracy'])}",
        markup=False,
    )
    if best["command"]:
        console.print(f"In full: {best['command']}", markup=False, soft_wrap=True)
    console.print(f"Search: {folder}")
    if (folder / PAGE).exists():
        console.print(f"Page: {folder / PAGE}")


def _table(record: SearchRecord) -> Table:
    found = leaderboard_rows(record)
    results = record.results
    title = (
        f"{record.method}: the best of {results['configurations']} configurations, {results['epochs_trained']} epochs "
        f"in {results['seconds']:.1f} s"
    )
    table = Table(title=title)
    for column in found[0]:
        table.add_column(column.replace("score", record.metric.replace("_", " ")), justify="right")
    for row in found[:_SHOWN]:
        table.add_row(*(_cell(record, column, value) for column, value in row.items()))
    return table


def _cell(record: SearchRecord, column: str, value: Any) -> str:
    if column == "score":
        return record.shown(value)
    if column == "outcome":
        return str(value).partition(":")[0]  # why one failed has been said
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
