"""The parts that scripts of claims share before their tables: options, data, and the runs that grid.yaml describes."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from claims.output import write_run_table
from partrain.cli.config import compose_config, grid_settings, run_settings
from partrain.cli.errors import errors_in_one_line
from partrain.comparison.compare import compare
from partrain.comparison.table import CellRun
from partrain.data import DataSettings
from partrain.data.settings import EMNIST, Glyphs
from partrain.errors import UserError


def make_parser(description: str | None, here: Path) -> argparse.ArgumentParser:
    """Return a parser of the options that these claims take. `here` is the claim's folder."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root", help="folder with EMNIST/raw; without it a script that needs the files downloads them"
    )
    runs_help = "folder of the runs; those that have finished there are not run again"
    parser.add_argument("--runs", type=Path, default=Path("runs/claims") / here.name, help=runs_help)
    parser.add_argument("--out", type=Path, default=here, help="folder of the table and the plot")
    parser.add_argument(
        "--set", nargs="*", default=[], help="more overrides for every run, e.g. to try it on less data"
    )
    return parser


def claim_data_settings(options: argparse.Namespace) -> DataSettings:
    """Return the settings of EMNIST ByMerge in the folder `--root`, or of the built-in data without that option."""
    if options.root:
        return EMNIST(split="bymerge", root=options.root, download=False)
    return Glyphs()


def run_claim(
    description: str | None,
    here: Path,
    table_rows: Callable[[list[CellRun]], list[dict[str, Any]]],
    plot: Callable[[list[dict[str, Any]], Path], None],
) -> None:
    """Do the runs of a claim whose runs are exactly those of its grid.yaml, and write its table and its plot.

    Args:
        description: The script's description, for `--help`.
        here: The claim's folder.
        table_rows: The function that makes the table's rows from the runs.
        plot: The function that writes the plot of the rows to a file.
    """
    options = make_parser(description, here).parse_args()
    with errors_in_one_line():
        runs = run_grid(here, options)
        rows = table_rows(runs)
        write_run_table(options.out, rows, runs)
        plot(rows, options.out / "plot.png")


def run_grid(
    here: Path, options: argparse.Namespace, subfolder: str = "", overrides: Sequence[str] = ()
) -> list[CellRun]:
    """Do the runs of the comparison that grid.yaml and `overrides` describe, except those that have finished.

    Args:
        here: The claim's folder, with its grid.yaml.
        options: The options that `make_parser` parses.
        subfolder: The comparison's folder, below that of the option `--runs`.
        overrides: Settings that differ from grid.yaml, e.g. "train.epochs=4".

    Raises:
        UserError: If a run failed.
    """
    grid = yaml.safe_load((here / "grid.yaml").read_text())
    listed = [f"{name}={_format_override(value)}" for name, value in grid.items()]
    if options.root:
        listed += [f"data.root={Path(options.root).absolute()}", "data.download=false"]
    config = compose_config(here.parents[2] / "conf", "compare", [*listed, *overrides, *options.set])
    runs = compare(run_settings(config), grid_settings(config), options.runs / subfolder)
    failed = [run for run in runs if not run.results]
    if failed:
        raise UserError(f"Run {failed[0].folder} failed: {failed[0].outcome}")
    return runs


def _format_override(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
