"""What the scripts of claims share before their tables: options, data, and the runs that grid.yaml describes."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from claims.output import write_run_table
from partrain.cli.config import clear_errors, composed, grid_settings, run_settings
from partrain.comparison.compare import compare
from partrain.comparison.table import CellRun
from partrain.data import DataSettings


def make_parser(description: str | None, here: Path) -> argparse.ArgumentParser:
    """A parser with the options that these claims take."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--root", help="folder with EMNIST/raw; without it the files are downloaded, where they are needed"
    )
    made.add_argument("--runs", type=Path, default=Path("runs/claims") / here.name, help="kept, and gone on with")
    made.add_argument("--out", type=Path, default=here, help="folder for the table and the plot")
    made.add_argument("--set", nargs="*", default=[], help="further overrides for every run, to try it small")
    return made


def claim_data_settings(given: argparse.Namespace) -> DataSettings:
    """EMNIST ByMerge in `--root`, or the built-in data without one."""
    if given.root:
        return DataSettings(name="emnist", split="bymerge", root=given.root, download=False)
    return DataSettings()


def run_grid(here: Path, given: argparse.Namespace, folder: str = "", overrides: Sequence[str] = ()) -> list[CellRun]:
    """The runs of the comparison that `here`/grid.yaml and `overrides` describe, done now as far as they are not."""
    listed = [f"{name}={_written(value)}" for name, value in yaml.safe_load((here / "grid.yaml").read_text()).items()]
    if given.root:
        listed += [f"data.root={Path(given.root).absolute()}", "data.download=false"]
    config = composed(here.parents[2] / "conf", "compare", [*listed, *overrides, *given.set])
    runs = compare(run_settings(config), grid_settings(config), given.runs / folder)
    failed = [run for run in runs if not run.results]
    if failed:
        raise ValueError(f"{failed[0].folder}: {failed[0].outcome}")
    return runs


def _written(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def run_claim(
    description: str | None,
    here: Path,
    table: Callable[[list[CellRun]], list[dict[str, Any]]],
    plot: Callable[[list[dict[str, Any]], Path], None],
) -> None:
    """A claim's script whose runs are those of grid.yaml and no others: their `table`, and the `plot` of it."""
    given = make_parser(description, here).parse_args()
    with clear_errors():
        runs = run_grid(here, given)
        rows = table(runs)
        write_run_table(given.out, rows, runs)
        plot(rows, given.out / "plot.png")
