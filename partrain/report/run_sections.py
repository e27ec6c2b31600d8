"""The parts of a run's page that are not figures: the headline numbers, the tables and the most confused classes."""

import base64
import io
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from partrain.data import Dataset
from partrain.partition.plan import SegmentPlan
from partrain.report.formatting import (
    format_bytes,
    format_count,
    format_duration,
    format_layer_names,
    format_percent,
    format_shape,
)
from partrain.report.page import Stat, Table, TableCell
from partrain.report.record import ProcessRecord, RunRecord

# ---- Headline numbers.


def headline(record: RunRecord) -> list[Stat]:
    """Return the headline numbers of a finished run, or how far an unfinished one is."""
    results = record.results
    if not results:
        return _progress_stats(record)
    stats = [
        Stat("test accuracy", format_percent(results["test_accuracy"]), _accuracy_note(results)),
        Stat("training time", format_duration(results["train_seconds"]), _processes_and_devices(record)),
    ]
    if "samples_per_second" in results:
        note = "each image counted once per epoch"
        stats.append(Stat("samples/s", f"{results['samples_per_second']:,.0f}", note))
    return [*stats, _traffic_stat(results)]


def _accuracy_note(results: dict[str, Any]) -> str:
    before_recovery = results.get("test_accuracy_before_recovery")
    if before_recovery is None:
        note = f"top-5 {format_percent(results['top5_accuracy'])}"
    else:
        note = f"before recovery {format_percent(before_recovery)}"
    return f"{note}, {results['data']['test_images']:,} images"


def _traffic_stat(results: dict[str, Any]) -> Stat:
    label, traffic, per_step = "sent between processes", results["traffic_bytes"], results.get("traffic_bytes_per_step")
    if traffic is None:
        return Stat(label, "unknown", "traffic between GPUs is not counted")
    note = f"{format_bytes(per_step)} per step" if per_step else "over the whole training"
    return Stat(label, format_bytes(traffic), note)


def _progress_stats(record: RunRecord) -> list[Stat]:
    fractions = [process.fraction_done for process in record.processes]
    if not any(fractions):
        return [Stat("training", "not started")]
    finished = sum(fraction == 1 for fraction in fractions)
    training = sum(0 < fraction < 1 for fraction in fractions)
    note = f"{finished} finished, {len(fractions) - finished - training} waiting"
    progress = format_percent(sum(fractions) / len(fractions), 0)
    return [
        Stat("of all training steps done", progress, _count_processes(len(fractions))),
        Stat("training now", _count_processes(training), note),
    ]


def _processes_and_devices(record: RunRecord) -> str:
    devices = ", ".join(dict.fromkeys(process.device for process in record.training_processes))
    return f"{_count_processes(len(record.training_processes))} on {devices}"


def _count_processes(number: int) -> str:
    return f"{number} process{'es' * (number != 1)}"


# ---- Tables.


def plan_table(record: RunRecord) -> Table:
    """Return the table of the plan: a row per segment with its layers, shapes, costs per image and devices."""
    columns = [
        "segment",
        "layers",
        "input",
        "output",
        "parameters",
        "FLOPs",
        "activations",
        "receptive field",
        "device",
    ]
    rows = [_plan_row(record, segment) for segment in record.segments]
    return Table(columns, {"parameters", "FLOPs", "activations", "receptive field"}, rows)


def _plan_row(record: RunRecord, segment: SegmentPlan) -> list[TableCell]:
    return [
        TableCell(str(segment.index)),
        TableCell(format_layer_names(segment.layers), len(segment.layers)),
        TableCell(format_shape(segment.input_shape)),
        TableCell(f"{format_shape(segment.output_shape)} ({segment.stop or 'classes'})"),
        TableCell(format_count(segment.parameters), segment.parameters),
        TableCell(format_count(segment.flops), segment.flops),
        TableCell(format_bytes(segment.activation_bytes), segment.activation_bytes),
        TableCell(f"{segment.receptive_field}×{segment.receptive_field}", segment.receptive_field),
        TableCell(record.device_label(segment)),
    ]


def process_table(record: RunRecord) -> Table:
    """Return the table of the finished processes: how long and how fast each trained, and what it took."""
    columns = [
        "process",
        "device",
        "epochs",
        "training time",
        "samples/s",
        "peak memory",
        "bytes sent",
        "decode accuracy (test)",
    ]
    rows = [_process_row(process) for process in record.processes if process.result]
    return Table(columns, set(columns[2:]), rows)


def _process_row(process: ProcessRecord) -> list[TableCell]:
    result = process.result
    early_stop = " (early stop)" if result["stopped_early"] else ""
    sent_bytes, accuracy = result.get("sent_bytes"), result.get("decode_accuracy")
    peak_bytes = result["peak_memory_bytes"]
    return [
        TableCell(process.name),
        TableCell(process.device),
        TableCell(f"{result['epochs']}{early_stop}", result["epochs"]),
        TableCell(format_duration(result["train_seconds"]), result["train_seconds"]),
        TableCell(f"{result['samples_per_second']:,.0f}", result["samples_per_second"]),
        TableCell("unknown" if peak_bytes is None else format_bytes(peak_bytes), peak_bytes),
        TableCell("" if sent_bytes is None else format_bytes(sent_bytes), sent_bytes),
        TableCell("" if accuracy is None else format_percent(accuracy), accuracy),
    ]


# ---- The most confused classes.


class ConfusedPair(NamedTuple):
    """A true class and the class that it was taken for, with the number of images and a few of them as data URIs."""

    name: str
    taken_for: str
    images: int
    pictures: list[str]


def confused_pairs(evaluation: dict[str, Any], dataset: Dataset | None) -> list[ConfusedPair]:
    """Return the most frequent confusions, with pictures if `dataset` holds the evaluated test images."""
    has_images = dataset is not None and len(dataset.test) == evaluation["data"]["test_images"]
    images = dataset.test.images if dataset is not None and has_images else None
    pairs = []
    for pair in evaluation.get("most_confused", []):
        examples = [] if images is None else [images[index] for index in pair.get("examples", [])]
        pictures = [image_data_uri(image) for image in examples]
        pairs.append(ConfusedPair(pair["class"], pair["taken_for"], pair["images"], pictures))
    return pairs


def image_data_uri(image: Tensor) -> str:
    """Return an image, uint8 [height, width] or [channels, height, width], as the data URI of a PNG file."""
    if image.ndim == 3:
        image = image.permute(1, 2, 0) if len(image) == 3 else image[0]
    file = io.BytesIO()
    Image.fromarray(image.numpy()).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
