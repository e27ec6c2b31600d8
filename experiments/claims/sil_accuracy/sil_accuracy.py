"""Accuracy of synthetic-label training against end to end, mean and deviation over seeds: table.md, table.csv, plot.png.

    python experiments/claims/sil_accuracy/sil_accuracy.py --root <folder with EMNIST/raw> --seeds 5

Runs are kept in --runs; those that are finished are not done again, so it can be stopped and started.
"""

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import partrain
from partrain.cli.config import clear_errors, composed, run_settings
from partrain.console import console
from partrain.report.tables import markdown_table, write_csv
from partrain.storage import checkpoint

HERE = Path(__file__).resolve().parent
CONF = HERE.parents[2] / "conf"


@dataclass(frozen=True)
class Row:
    """A configuration: `experiment` and more `overrides`; `against` names the row it is compared with.

    `target`: least difference to that row, in points. `before`: the accuracy before the recovery epoch.
    """

    name: str
    experiment: str
    overrides: tuple[str, ...] = ()
    against: str = "end to end"
    target: float | None = None
    before: bool = False

    @property
    def run(self) -> str:
        return "_".join([self.experiment, *self.overrides]).replace("=", "-")


CNN = "end to end (CNN)"
ROWS = (
    Row("end to end", "end_to_end"),
    Row("end to end, weight decay 1", "end_to_end", ("train.weight_decay=1.0",)),
    Row("linear classifier", "end_to_end", ("network.depth=1",)),
    Row("paper's labels, K = 2, parallel", "paper_parallel", before=True),
    Row("paper's labels, K = 2, parallel, 1 recovery epoch", "paper_parallel"),
    Row("paper's labels, K = 2, sequential", "paper_sequential", before=True),
    Row("paper's labels, K = 2, sequential, 1 recovery epoch", "paper_sequential"),
    Row("K = 2, parallel", "k2_parallel", target=0.0),
    Row("K = 3, parallel", "k3_parallel", target=-1.3),
    Row("K = 3, sequential", "k3_sequential", target=-0.5),
    Row("K = 6, sequential", "k6_sequential", target=-1.5),
    Row("K = 6, parallel", "k6_parallel", before=True),
    Row("K = 6, parallel, 1 recovery epoch", "k6_parallel", target=-1.5),
    Row(CNN, "cnn_end_to_end", against=CNN),
    Row("CNN, K = 2, parallel", "cnn_k2_parallel", against=CNN, target=-1.0),
)


def results_of(row: Row, seed: int, data: list[str], runs: Path) -> dict[str, Any]:
    """results.json of a row's run with `seed`, done now if it is not there."""
    folder = runs / row.run / str(seed)
    if not (folder / "results.json").exists():
        console.print(f"{row.name}, seed {seed}")
        overrides = [f"experiment={row.experiment}", *row.overrides, *data, f"seed={seed}"]
        partrain.run(run_settings(composed(CONF, "train", overrides)), folder)
    found: dict[str, Any] = checkpoint.read_json(folder / "results.json")
    return found


def accuracies(row: Row, results: list[dict[str, Any]]) -> list[float]:
    """Per cent, a value per seed."""
    key = "test_accuracy_before_recovery" if row.before else "test_accuracy"
    return [100 * result[key] for result in results]


def table(found: dict[str, list[float]], results: dict[str, list[dict[str, Any]]]) -> list[dict[str, str]]:
    rows = []
    for row in ROWS:
        values = found[row.name]
        difference = statistics.mean(values) - statistics.mean(found[row.against])
        met = "" if row.target is None else ("yes" if difference >= row.target else "NO")
        rows.append(
            {
                "configuration": row.name,
                "seeds": str(len(values)),
                "test accuracy, %": f"{statistics.mean(values):.2f} ± {statistics.stdev(values) if values[1:] else 0:.2f}",
                "against end to end": f"{difference:+.2f}",
                "target": "" if row.target is None else f"{row.target:+.1f}",
                "met": met,
                "bytes between segments": f"{results[row.name][0]['traffic_bytes']:,}",
            }
        )
    return rows


def plot(found: dict[str, list[float]], path: Path) -> None:
    figure = Figure(figsize=(9, 0.38 * len(ROWS) + 1.2))
    axes = figure.subplots()
    for place, row in enumerate(reversed(ROWS)):
        values = found[row.name]
        colour = "#D55E00" if row.name == row.against or row.against in row.name else "#0072B2"
        axes.plot(values, [place] * len(values), "o", color=colour, markersize=4, alpha=0.6)
        axes.plot([statistics.mean(values)], [place], "|", color=colour, markersize=16, markeredgewidth=2)
        if row.target is not None:
            axes.plot([statistics.mean(found[row.against]) + row.target], [place], "<", color="black", markersize=5)
    axes.axvline(statistics.mean(found["end to end"]), color="#D55E00", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(ROWS)), [row.name for row in reversed(ROWS)])
    axes.set(xlabel="test accuracy, %  (dot: a seed, bar: mean, black triangle: target)")
    axes.grid(axis="x", alpha=0.3)
    checkpoint.write_atomic(path, lambda beside: figure.savefig(beside, format="png", dpi=120, bbox_inches="tight"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder with EMNIST/raw; without it the files are downloaded")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/claims/sil_accuracy"))
    parser.add_argument("--set", nargs="*", default=[], help="further overrides for every run, to try it small")
    arguments = parser.parse_args()
    data = ["data=emnist", "data.split=bymerge", *arguments.set]
    if arguments.root:
        data += [f"data.root={Path(arguments.root).absolute()}", "data.download=false"]
    results: dict[str, list[dict[str, Any]]] = {row.name: [] for row in ROWS}
    with clear_errors():
        for seed in range(arguments.seeds):
            for row in ROWS:
                results[row.name].append(results_of(row, seed, data, arguments.runs))
    found = {row.name: accuracies(row, results[row.name]) for row in ROWS}
    write(table(found, results), results["end to end"][0]["data"], found, arguments)


def write(
    rows: list[dict[str, str]], data: dict[str, Any], found: dict[str, list[float]], arguments: argparse.Namespace
) -> None:
    write_csv(HERE / "table.csv", rows)
    provenance = (
        f"{data['name']} {data['split']}: {data['train_images']:,} training images, {data['test_images']:,} test images. "
        f"{'Verified files.' if data['verified'] else 'Unverified files: ' + data['note'] + '.'}"
    )
    checkpoint.write_text(HERE / "table.md", f"{markdown_table(rows)}\n{provenance}\n")
    plot(found, HERE / "plot.png")
    console.print((HERE / "table.md").read_text())


if __name__ == "__main__":
    main()
