"""What a run's page says besides its figures: headline, tables, confused pairs."""

import base64
import io
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from partrain.data import Dataset
from partrain.report.formatting import count, duration, layer_names, share, size
from partrain.report.page import Cell, Stat, Table
from partrain.report.record import RunRecord, shape


def headline(record: RunRecord) -> list[Stat]:
    """The run in four numbers, or how far it is."""
    results = record.results
    if not results:
        return _headline_so_far(record)
    before, data = results.get("test_accuracy_before_recovery"), results["data"]
    recovered = f"before recovery {share(before)}" if before is not None else f"top-5 {share(results['top5_accuracy'])}"
    stats = [
        Stat("test accuracy", share(results["test_accuracy"]), f"{recovered}, {data['test_images']:,} images"),
        Stat("training time", duration(results["train_seconds"]), _where(record)),
    ]
    if "samples_per_second" in results:
        stats.append(Stat("samples/s", f"{results['samples_per_second']:,.0f}", "every image counted once an epoch"))
    per_step = results.get("traffic_bytes_per_step")
    if results["traffic_bytes"] is None:
        return [*stats, Stat("between processes", "unknown", "what moves between GPUs is not counted")]
    note = f"{size(per_step)} per step" if per_step else "over the whole training"
    return [*stats, Stat("between processes", size(results["traffic_bytes"]), note)]


def _headline_so_far(record: RunRecord) -> list[Stat]:
    done = [process.done for process in record.processes]
    if not any(done):
        return [Stat("training", "not begun")]
    ended, under_way = sum(part == 1 for part in done), sum(0 < part < 1 for part in done)
    note = f"{ended} trained, {len(done) - ended - under_way} waiting"
    return [
        Stat("of all steps done", share(sum(done) / len(done), 0), _processes(len(done))),
        Stat("training now", _processes(under_way), note),
    ]


def _where(record: RunRecord) -> str:
    kinds = ", ".join(dict.fromkeys(process.device for process in record.parts))
    return f"{_processes(len(record.parts))} on {kinds}"


def _processes(number: int) -> str:
    return f"{number} process{'es' * (number != 1)}"


def plan_table(record: RunRecord) -> Table:
    """A row per segment: what it holds and costs per image, and its device."""
    rows = [
        [
            Cell(str(segment.index)),
            Cell(layer_names(segment.layers), len(segment.layers)),
            Cell(shape(segment.input_shape)),
            Cell(f"{shape(segment.output_shape)} ({segment.stop or 'classes'})"),
            Cell(count(segment.parameters), segment.parameters),
            Cell(count(segment.flops), segment.flops),
            Cell(size(segment.activation_bytes), segment.activation_bytes),
            Cell(f"{segment.receptive_field}×{segment.receptive_field}", segment.receptive_field),
            Cell(record.devices(segment)),
        ]
        for segment in record.segments
    ]
    columns = ["segment", "layers", "input", "output", "parameters", "FLOPs", "activations", "sees", "device"]
    return Table(columns, {"parameters", "FLOPs", "activations", "sees"}, rows)


def process_table(record: RunRecord) -> Table:
    """A row per process: how long it trained, how fast, at what cost."""
    columns = ["process", "device", "epochs", "training", "samples/s", "peak memory", "sent", "decodes (test)"]
    rows = []
    for process in record.processes:
        result = process.result
        if result:
            sent, decoded = result.get("sent_bytes"), result.get("decode_accuracy")
            rows.append(
                [
                    Cell(process.name),
                    Cell(process.device),
                    Cell(f"{result['epochs']}{' (early stop)' if result['stopped_early'] else ''}", result["epochs"]),
                    Cell(duration(result["train_seconds"]), result["train_seconds"]),
                    Cell(f"{result['samples_per_second']:,.0f}", result["samples_per_second"]),
                    Cell(size(result["peak_memory_bytes"]), result["peak_memory_bytes"]),
                    Cell("" if sent is None else size(sent), sent),
                    Cell("" if decoded is None else share(decoded), decoded),
                ]
            )
    return Table(columns, set(columns[2:]), rows)


class Pair(NamedTuple):
    """A class, what it was taken for, how often, and examples as data URIs."""

    name: str
    taken_for: str
    images: int
    pictures: list[str]


def confused_pairs(evaluation: dict[str, Any], dataset: Dataset | None) -> list[Pair]:
    """The most frequent mistakes, with pictures where the images are at hand."""
    images = dataset.test.images if dataset and len(dataset.test) == evaluation["data"]["test_images"] else None
    return [
        Pair(
            pair["class"],
            pair["taken_for"],
            pair["images"],
            [] if images is None else [picture(images[index]) for index in pair.get("examples", [])],
        )
        for pair in evaluation.get("most_confused", [])
    ]


def picture(image: Tensor) -> str:
    """An image, uint8 [h, w] or [c, h, w], as the data URI of a PNG file."""
    if image.ndim == 3:
        image = image.permute(1, 2, 0) if len(image) == 3 else image[0]
    file = io.BytesIO()
    Image.fromarray(image.numpy()).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
