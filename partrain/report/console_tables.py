"""The tables that a run prints on the console: its plan before training, and its results after training."""

from pathlib import Path
from typing import Any

from rich.table import Table

from partrain.console import console
from partrain.partition.plan import Plan
from partrain.report.formatting import format_count, format_layer_names, format_shape
from partrain.storage.run_folder import PAGE


def print_plan(plan: Plan, batch_size: int) -> None:
    """Print the plan's table and warnings. Activations are those of a batch of `batch_size` images."""
    console.print(plan_table(plan, batch_size))
    for warning in plan.warnings():
        console.print(f"WARNING {warning}")


def plan_table(plan: Plan, batch_size: int) -> Table:
    """Return a table with a row per segment: its layers, parameters, FLOPs, activations and output."""
    imbalance = f"{plan.imbalance:.0%} above the mean share of {plan.balance}"
    table = Table(title=f"Plan: {plan.network['name']}, {len(plan.segments)} segments, the largest {imbalance}")
    for column in ("segment", "layers"):
        table.add_column(column)
    for column in ("parameters", "FLOPs/image", f"activations ({batch_size} images)", "output"):
        table.add_column(column, justify="right")
    for segment in plan.segments:
        target = segment.stop or "classes"
        table.add_row(
            str(segment.index),
            format_layer_names(segment.layers),
            format_count(segment.parameters),
            format_count(segment.flops),
            f"{segment.activation_bytes * batch_size / 2**20:.1f} MiB",
            f"{format_shape(segment.output_shape)} ({target})",
        )
    return table


def print_results(results: dict[str, Any], folder: Path) -> None:
    """Print a finished run's table of segments, warnings and accuracy, and where its files are.

    Args:
        results: The contents of results.json.
        folder: The run's folder.
    """
    console.print(results_table(results))
    for warning in results["warnings"]:
        console.print(f"WARNING {warning}")
    console.print(accuracy_sentence(results))
    if results["data"]["note"]:
        console.print(f"Note: {results['data']['note']}")
    console.print(f"Run: {folder}")
    if (folder / PAGE).exists():
        console.print(f"Page: {folder / PAGE}")


def results_table(results: dict[str, Any]) -> Table:
    """Return a table with a row per segment: how long and how fast it trained, its memory and its decode accuracy."""
    table = Table(title="Segments")
    for column in ("segment", "epochs", "seconds", "samples/s", "peak memory", "decode accuracy (test)"):
        table.add_column(column, justify="right")
    for segment in results["segments"]:
        accuracy, peak_bytes = segment["decode_accuracy"], segment["peak_memory_bytes"]
        table.add_row(
            str(segment["index"]),
            f"{segment['epochs']}{' (early stop)' if segment['stopped_early'] else ''}",
            f"{segment['train_seconds']:.1f}",
            f"{segment['samples_per_second']:,.0f}",
            "unknown" if peak_bytes is None else f"{peak_bytes / 2**20:,.0f} MiB",
            "" if accuracy is None else f"{accuracy:.2%}",
        )
    return table


def accuracy_sentence(results: dict[str, Any]) -> str:
    """Return the accuracy, the data it was measured on, the training time and the traffic in one sentence."""
    data = results["data"]
    before = results["test_accuracy_before_recovery"]
    recovered = f" (before recovery {before:.2%})" if before is not None else ""
    validation = results.get("validation_accuracy")
    held_out = "" if validation is None else f"Validation accuracy {validation:.2%}. "
    return (
        f"{held_out}Test accuracy {results['test_accuracy']:.2%}{recovered}, top-5 {results['top5_accuracy']:.2%}, on "
        f"{data['test_images']:,} images of {dataset_label(data)}; trained in {results['train_seconds']:.1f} s, "
        f"{_traffic(results)} sent between processes"
    )


def _traffic(results: dict[str, Any]) -> str:
    traffic_bytes = results["traffic_bytes"]
    return "an unknown number of bytes" if traffic_bytes is None else f"{traffic_bytes:,} bytes"


def dataset_label(data: dict[str, Any]) -> str:
    """Return the name and split of a data set, given its provenance, with a remark if its files are unverified."""
    name = f"{data['name']} {data['split']}" if data["split"] else str(data["name"])
    return f"{name} (unverified files)" if data["verified"] is False else name
