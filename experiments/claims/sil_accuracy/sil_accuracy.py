"""Accuracy of synthetic-label training against end to end, mean and deviation over seeds: table.md, table.csv, plot.png.

    python experiments/claims/sil_accuracy/sil_accuracy.py --root <folder with EMNIST/raw> --seeds 5

The folder --runs holds the runs. Those that have finished are not run again, so the script can be stopped and restarted.
"""

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import partrain
from partrain.cli.config import compose_config, run_settings
from partrain.cli.errors import errors_in_one_line
from partrain.console import console
from partrain.report.tables import markdown_table, write_csv
from partrain.storage import checkpoint

HERE = Path(__file__).resolve().parent
CONF = HERE.parents[2] / "conf"
END_TO_END = "end to end"
END_TO_END_CNN = "end to end (CNN)"


@dataclass(frozen=True)
class Configuration:
    """A configuration, which is a row of the table and of the plot."""

    name: str
    experiment: str
    """The name of its file in conf/experiment."""
    overrides: tuple[str, ...] = ()
    """Settings that differ from that file, e.g. "train.weight_decay=1.0"."""
    baseline: str = END_TO_END
    """The name of the configuration that it is compared with."""
    target: float | None = None
    """The least difference to the baseline that the claim allows, in percentage points."""
    before_recovery: bool = False
    """Whether its accuracy is the one before the recovery epoch."""

    @property
    def folder(self) -> str:
        """Return the folder of its runs, below that of all runs."""
        return "_".join([self.experiment, *self.overrides]).replace("=", "-")

    def accuracy(self, results: dict[str, Any]) -> float:
        """Return the test accuracy of one of its runs in per cent, given the contents of results.json."""
        key = "test_accuracy_before_recovery" if self.before_recovery else "test_accuracy"
        return 100 * float(results[key])


CONFIGURATIONS = (
    Configuration(END_TO_END, "end_to_end"),
    Configuration("end to end, weight decay 1", "end_to_end", ("train.weight_decay=1.0",)),
    Configuration("linear classifier", "end_to_end", ("network.depth=1",)),
    Configuration("paper's labels, K = 2, parallel", "paper_parallel", before_recovery=True),
    Configuration("paper's labels, K = 2, parallel, 1 recovery epoch", "paper_parallel"),
    Configuration("paper's labels, K = 2, sequential", "paper_sequential", before_recovery=True),
    Configuration("paper's labels, K = 2, sequential, 1 recovery epoch", "paper_sequential"),
    Configuration("K = 2, parallel", "k2_parallel", target=0.0),
    Configuration("K = 3, parallel", "k3_parallel", target=-1.3),
    Configuration("K = 3, sequential", "k3_sequential", target=-0.5),
    Configuration("K = 6, sequential", "k6_sequential", target=-1.5),
    Configuration("K = 6, parallel", "k6_parallel", before_recovery=True),
    Configuration("K = 6, parallel, 1 recovery epoch", "k6_parallel", target=-1.5),
    Configuration(END_TO_END_CNN, "cnn_end_to_end", baseline=END_TO_END_CNN),
    Configuration("CNN, K = 2, parallel", "cnn_k2_parallel", baseline=END_TO_END_CNN, target=-1.0),
)


@dataclass
class Measurement:
    """The results of a configuration's runs, one per seed."""

    configuration: Configuration
    results: list[dict[str, Any]]

    @property
    def accuracies(self) -> list[float]:
        """Return the test accuracies in per cent, one per seed."""
        return [self.configuration.accuracy(results) for results in self.results]

    @property
    def mean(self) -> float:
        """Return the mean of the accuracies in per cent."""
        return statistics.mean(self.accuracies)

    @property
    def deviation(self) -> float:
        """Return the standard deviation of the accuracies in percentage points, or 0 with a single seed."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0


def main() -> None:
    """Do the runs that the options ask for, and write the table and the plot beside this script."""
    options = parse_options()
    data = ["data=emnist", "data.split=bymerge", *options.set]
    if options.root:
        data += [f"data.root={Path(options.root).absolute()}", "data.download=false"]
    measurements = {configuration.name: Measurement(configuration, []) for configuration in CONFIGURATIONS}
    with errors_in_one_line():
        for seed in range(options.seeds):
            for measurement in measurements.values():
                results = run_configuration(measurement.configuration, seed, data, options.runs)
                measurement.results.append(results)
    write_table(measurements)
    plot(measurements, HERE / "plot.png")


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder with EMNIST/raw; without it the files are downloaded")
    parser.add_argument("--seeds", type=int, default=5, help="number of runs of each configuration")
    runs_help = "folder of the runs; those that have finished there are not run again"
    parser.add_argument("--runs", type=Path, default=Path("runs/claims/sil_accuracy"), help=runs_help)
    parser.add_argument(
        "--set", nargs="*", default=[], help="more overrides for every run, e.g. to try it on less data"
    )
    return parser.parse_args()


def run_configuration(configuration: Configuration, seed: int, data: list[str], runs: Path) -> dict[str, Any]:
    """Do a configuration's run with `seed` unless it has finished, and return the contents of its results.json.

    Args:
        configuration: The configuration.
        seed: The seed of the run.
        data: The settings of the data set.
        runs: The folder of all runs.
    """
    folder = runs / configuration.folder / str(seed)
    if not (folder / "results.json").exists():
        console.print(f"{configuration.name}, seed {seed}")
        overrides = [f"experiment={configuration.experiment}", *configuration.overrides, *data, f"seed={seed}"]
        partrain.run(run_settings(compose_config(CONF, "train", overrides)), folder)
    results: dict[str, Any] = checkpoint.read_json(folder / "results.json")
    return results


def write_table(measurements: dict[str, Measurement]) -> None:
    """Write table.csv and table.md, with the provenance of the data, and print the latter."""
    rows = [table_row(measurement, measurements) for measurement in measurements.values()]
    write_csv(HERE / "table.csv", rows)
    data = measurements[END_TO_END].results[0]["data"]
    images = f"{data['train_images']:,} training images, {data['test_images']:,} test images"
    files = "Verified files." if data["verified"] else f"Unverified files: {data['note']}."
    provenance = f"{data['name']} {data['split']}: {images}. {files}"
    checkpoint.write_text(HERE / "table.md", f"{markdown_table(rows)}\n{provenance}\n")
    console.print((HERE / "table.md").read_text())


def table_row(measurement: Measurement, measurements: dict[str, Measurement]) -> dict[str, str]:
    """Return a configuration's row of the table."""
    configuration = measurement.configuration
    difference = measurement.mean - measurements[configuration.baseline].mean
    target, is_met = "", ""
    if configuration.target is not None:
        target = f"{configuration.target:+.1f}"
        is_met = "yes" if difference >= configuration.target else "NO"
    return {
        "configuration": configuration.name,
        "seeds": str(len(measurement.results)),
        "test accuracy, %": f"{measurement.mean:.2f} ± {measurement.deviation:.2f}",
        "against end to end": f"{difference:+.2f}",
        "target": target,
        "met": is_met,
        "bytes between segments": f"{measurement.results[0]['traffic_bytes']:,}",
    }


def plot(measurements: dict[str, Measurement], path: Path) -> None:
    """Write a plot of every seed's accuracy, the means and the targets, a row per configuration."""
    figure = Figure(figsize=(9, 0.38 * len(measurements) + 1.2))
    axes = figure.subplots()
    rows = list(reversed(measurements.values()))
    for position, measurement in enumerate(rows):
        configuration, accuracies = measurement.configuration, measurement.accuracies
        colour = "#D55E00" if configuration.baseline in configuration.name else "#0072B2"
        axes.plot(accuracies, [position] * len(accuracies), "o", color=colour, markersize=4, alpha=0.6)
        axes.plot([measurement.mean], [position], "|", color=colour, markersize=16, markeredgewidth=2)
        if configuration.target is not None:
            goal = measurements[configuration.baseline].mean + configuration.target
            axes.plot([goal], [position], "<", color="black", markersize=5)
    axes.axvline(measurements[END_TO_END].mean, color="#D55E00", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(rows)), [measurement.configuration.name for measurement in rows])
    axes.set(xlabel="test accuracy, %  (dot: a seed, bar: mean, black triangle: target)")
    axes.grid(axis="x", alpha=0.3)
    checkpoint.write_atomic(path, lambda beside: figure.savefig(beside, format="png", dpi=120, bbox_inches="tight"))


if __name__ == "__main__":
    main()
