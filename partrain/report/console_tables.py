"""Tables on the console: the plan before training, the results after it."""

from pathlib import Path
from typing import Any

from rich.table import Table

from partrain.console import console
from partrain.partition.plan import Plan
from partrain.report.formatting import count, layer_names
from partrain.storage.run_folder import PAGE


def plan_table(plan: Plan, batch_size: int) -> Table:
    """One row per segment: what it holds and what it costs."""
    imbalance = f"{plan.imbalance:.0%} above the mean share of {plan.balance}"
    table = Table(title=f"Plan: {plan.network['kind']}, {len(plan.segments)} segments, the largest {imbalance}")
    for column in ("segment", "layers"):
        table.add_column(column)
    for column in ("parameters", "FLOPs/image", f"activations/{batch_size}", "output"):
        table.add_column(column, justify="right")
    for segment in plan.segments:
        table.add_row(
            str(segment.index),
            layer_names(segment.layers),
            count(segment.parameters),
            count(segment.flops),
            f"{segment.activation_bytes * batch_size / 2**20:.1f} MiB",
            "×".join(map(str, segment.output_shape)) + (f" ({segment.stop})" if segment.stop else " (classes)"),
        )
    return table


def print_plan(plan: Plan, batch_size: int) -> None:
    console.print(plan_table(plan, batch_size))
    for warning in plan.warnings():
        console.print(f"WARNING {warning}")


def print_results(results: dict[str, Any], folder: Path) -> None:
    """The accuracy, a row per segment, and where the rest is."""
    table = Table(title="Segments")
    for column in ("segment", "epochs", "seconds", "samples/s", "peak memory", "decodes (test)"):
        table.add_column(column, justify="right")
    for segment in results["segments"]:
        table.add_row(
            str(segment["index"]),
            f"{segment['epochs']}{' (early)' if segment['stopped_early'] else ''}",
            f"{segment['train_seconds']:.1f}",
            f"{segment['samples_per_second']:,.0f}",
            f"{segment['peak_memory_bytes'] / 2**20:,.0f} MiB",
            "" if segment["decode_accuracy"] is None else f"{segment['decode_accuracy']:.2%}",
        )
    console.print(table)
    for warning in results["warnings"]:
        console.print(f"WARNING {warning}")
    console.print(accuracy_line(results))
    if results["data"]["note"]:
        console.print(f"Note: {results['data']['note']}")
    console.print(f"Run: {folder}")
    if (folder / PAGE).exists():
        console.print(f"Page: {folder / PAGE}")


def accuracy_line(results: dict[str, Any]) -> str:
    """The outcome in a sentence, with what it was measured on."""
    data = results["data"]
    before = results["test_accuracy_before_recovery"]
    recovered = f" (before recovery {before:.2%})" if before is not None else ""
    return (
        f"Test accuracy {results['test_accuracy']:.2%}{recovered}, top-5 {results['top5_accuracy']:.2%}, on "
        f"{data['test_images']:,} images of {data_label(data)}; trained in {results['train_seconds']:.1f} s, "
        f"{_traffic(results)} between processes"
    )


def _traffic(results: dict[str, Any]) -> str:
    sent = results["traffic_bytes"]
    return "an unknown number of bytes" if sent is None else f"{sent:,} bytes"


def data_label(data: dict[str, Any]) -> str:
    """Name and split of a data set (its `provenance`), and that its files are not verified where they are not."""
    name = f"{data['name']} {data['split']}" if data["split"] else str(data["name"])
    return f"{name} (unverified files)" if data["verified"] is False else name
