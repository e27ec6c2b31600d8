"""Tests of report.html: it shows what the run's files hold, of a finished run and of one that is training."""

import base64
import csv
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import read_figures, read_table, visible_text
from PIL import Image
from scripting import small_settings

import partrain
from partrain.cli.multirun import make_row, write_report
from partrain.data import Dataset
from partrain.partition.plan import PartitionSettings
from partrain.report.console_tables import results_table
from partrain.runs.page import write_run_page
from partrain.storage import checkpoint
from partrain.training.optimization import TrainSettings


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    """Return the page of a finished run."""
    return write_run_page(run)


def metrics(folder: Path) -> list[dict[str, str]]:
    """Return the rows of the metrics.csv in `folder`."""
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_curves_are_those_of_the_metrics(run: Path, page: Path) -> None:
    drawn = read_figures(page)
    results = checkpoint.read_json(run / "results.json")
    for index in range(2):
        rows = metrics(run / f"segments/{index}")
        loss, accuracy = (drawn[title]["data"][index] for title in ("Training loss", "Decode accuracy"))
        assert loss["name"] == accuracy["name"] == f"segment {index}"
        assert loss["x"] == [1, 2, 3]
        assert loss["y"] == [float(row["loss"]) for row in rows]
        assert accuracy["y"] == [100 * float(row["decode_accuracy"]) for row in rows]
    on_test = [100 * segment["decode_accuracy"] for segment in results["segments"]]
    assert drawn["Decode accuracy"]["data"][2]["y"] == on_test
    assert drawn["Decode accuracy at every boundary"]["data"][1]["x"] == on_test


def test_the_confusion_matrix_is_the_evaluations(run: Path, page: Path) -> None:
    evaluation = checkpoint.read_json(run / "evaluation.json")
    heatmap = read_figures(page)["Confusion matrix"]["data"][0]
    counts = np.array(evaluation["confusion"])
    assert heatmap["x"] == heatmap["y"] == ["0", "1", "2", "3", "4"]
    assert np.allclose(heatmap["z"], counts / counts.sum(axis=1, keepdims=True))
    assert np.array(heatmap["customdata"])[:, :, 0].tolist() == counts.tolist()


def test_the_headline_and_the_tables(run: Path, page: Path) -> None:
    results, text = checkpoint.read_json(run / "results.json"), page.read_text()
    assert "<h1>mlp on arrays</h1>" in text
    assert f"{100 * results['test_accuracy']:.2f} %" in visible_text(text)
    assert "0 bytes" in visible_text(text)
    plan = read_table(page, "Plan")
    assert [row[:4] for row in plan[1:]] == [
        ["0", "linear0, linear1", "1×8×8", "32 (dropout1)"],
        ["1", "linear2, linear3", "32", "5 (classes)"],
    ]
    assert [row[0] for row in read_table(page, "Processes")[1:]] == ["segment 0", "segment 1"]
    assert "codes, 32" in text
    assert "http-equiv" not in text


def test_pictures_are_the_images_that_were_confused(run: Path, page: Path, small: Dataset) -> None:
    pairs = checkpoint.read_json(run / "evaluation.json")["most_confused"]
    values = partrain.normalise(small.test.images, small.mean, small.std)
    with torch.inference_mode():
        predicted = partrain.load(run)(values).argmax(dim=1)
    pictures = iter(re.findall(r'<img src="data:image/png;base64,([^"]*)"', page.read_text()))
    for pair in pairs:
        assert len(pair["examples"]) == min(6, pair["images"])
        for index in pair["examples"]:
            assert small.test.labels[index] == int(pair["class"])
            assert predicted[index] == int(pair["taken_for"])
            shown = np.array(Image.open(io.BytesIO(base64.b64decode(next(pictures)))))
            assert np.array_equal(shown, small.test.images[index])
    assert next(pictures, None) is None


def test_nothing_is_loaded_from_elsewhere(page: Path) -> None:
    without_plotly = re.sub(r'<script type="text/plain".*?</script>', "", page.read_text(), flags=re.DOTALL)
    assert not re.search(r'(src|href)="(?!#|data:)', without_plotly)
    assert not re.search(r"url\(|@import|https?://", without_plotly)


def test_a_run_under_way(run: Path, small: Dataset, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    for name in ("results.json", "evaluation.json"):
        (tmp_path / name).unlink()
    rows = metrics(run / "segments/0")[:1]
    with (tmp_path / "segments/0/metrics.csv").open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    state = {"step": 25, "end": 60, "epoch": 2, "loss": 0.5, "decode_accuracy": 0.75, "samples_per_second": 1234.5}
    checkpoint.write_json(tmp_path / "segments/0/progress.json", state)
    (tmp_path / "segments/1/metrics.csv").unlink()
    (tmp_path / "segments/1/progress.json").unlink(missing_ok=True)
    text = write_run_page(tmp_path, small, refresh=5).read_text()
    assert '<meta http-equiv="refresh" content="5">' in text
    assert re.search(r"training, updated \d\d:\d\d:\d\d", text)
    assert 'aria-valuenow="42"' in text  # 25 of 60 steps
    assert "mlp on arrays" in text
    (loss,) = read_figures(tmp_path / "report.html")["Training loss"]["data"]
    assert loss["x"] == [1, 1.25]
    assert loss["y"] == [float(rows[0]["loss"]), 0.5]
    assert "Confusion matrix" not in text


def test_a_plan_alone_and_an_empty_folder(small: Dataset, tmp_path: Path) -> None:
    assert "not started" in write_run_page(tmp_path / "empty").read_text()
    settings = small_settings(partition=PartitionSettings(segments=2, dry_run=True))
    partrain.run(settings, tmp_path / "dry", dataset=small, show_progress=False)
    page = write_run_page(tmp_path / "dry")
    assert len(read_table(page, "Plan")) == 3
    assert read_figures(page) == {}
    assert "not finished" in page.read_text()


def test_processes_that_see_no_loss_and_share_their_connections(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    (tmp_path / "segments").rename(tmp_path / "ranks")
    inner = tmp_path / "ranks/0/metrics.csv"
    rows = [row | {"loss": "", "decode_accuracy": ""} for row in metrics(inner.parent)]
    with inner.open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    results = checkpoint.read_json(run / "results.json")
    results["strategy"] = {"name": "gpipe", "microbatches": 4}
    results["accuracy_curve"] = [{"seconds": 1.0, "test_accuracy": 0.5}, {"seconds": 2.0, "test_accuracy": 0.75}]
    for segment in results["segments"]:
        segment |= {"decode_accuracy": None, "sent_bytes": 2**20, "received_bytes": 2**21, "utilization": 0.5}
        segment["timeline"] = [[100.0, 101.0], [101.5, 103.0]]
    checkpoint.write_json(tmp_path / "results.json", results)
    page = write_run_page(tmp_path)
    drawn = read_figures(page)
    assert [line["name"] for line in drawn["Training loss"]["data"]] == ["process 1"]
    assert drawn["Test accuracy against time"]["data"][0]["y"] == [50, 75]
    first = drawn["Time line"]["data"][0]
    assert (first["base"], first["x"]) == ([0, 1.5], [1, 1.5])
    assert [bars["x"] for bars in drawn["Traffic"]["data"]] == [[1, 1], [2, 2]]
    assert drawn["Utilisation"]["data"][0]["x"] == [50, 50]
    assert "Decode accuracy at every boundary" not in drawn
    assert "GPipe pipeline, 4 microbatches" in page.read_text()
    assert "activations, 32" in page.read_text()


def test_memory_that_a_device_does_not_report(run: Path, tmp_path: Path) -> None:
    known, unknown = (shutil.copytree(run, tmp_path / name) for name in ("0", "1"))
    results = checkpoint.read_json(run / "results.json")
    results["segments"][1]["peak_memory_bytes"] = None
    checkpoint.write_json(unknown / "results.json", results)
    page = write_run_page(unknown)
    [names, *rows] = read_table(page, "Processes")
    cells = [row[names.index("peak memory")] for row in rows]
    assert (cells[0][-3:], cells[1]) == ("MiB", "unknown")
    assert [len(bars["y"]) for bars in read_figures(page)["Memory"]["data"]] == [1, 1, 1]
    assert list(results_table(results).columns[4].cells)[1] == "unknown"

    write_report([make_row(known, "seed=0", "done"), make_row(unknown, "seed=1", "done")], tmp_path)
    drawn = read_figures(tmp_path / "report.html")
    assert drawn["Test accuracy"]["data"][0]["y"] == ["0 seed=0", "1 seed=1"]
    assert [bars["y"] for bars in drawn["Memory"]["data"]] == [["0 seed=0"]] * 2
    write_report([make_row(unknown, "seed=1", "done")], tmp_path)
    drawn = read_figures(tmp_path / "report.html")
    assert "Test accuracy" in drawn
    assert "Memory" not in drawn


def test_names_of_classes_are_text(small: Dataset, tmp_path: Path) -> None:
    names = ["<b>", "</script>", "&amp;", '"', "a b"]
    images, labels = small.train.images.numpy(), small.train.labels.numpy()
    odd = Dataset.from_arrays(images, labels, images[:200], labels[:200], names, folder=tmp_path / "odd")
    settings = small_settings(
        train=TrainSettings(epochs=1, batch_size=64, precision="fp32"), partition=PartitionSettings(segments=1)
    )
    partrain.run(settings, tmp_path / "run", dataset=odd, show_progress=False)
    page = write_run_page(tmp_path / "run", odd)
    assert read_figures(page)["Confusion matrix"]["data"][0]["x"][:2] == ["&lt;b&gt;", "&lt;/script&gt;"]
    assert not re.search(r"<strong>[^<]*<(?!/strong)", page.read_text())


def test_a_whole_network_is_called_end_to_end(small: Dataset, tmp_path: Path) -> None:
    settings = small_settings(partition=PartitionSettings(segments=1, dry_run=True))
    partrain.run(settings, tmp_path, dataset=small, show_progress=False)
    assert "End to end" in write_run_page(tmp_path).read_text()
