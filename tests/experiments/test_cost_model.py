"""The cost model: bytes and bubbles from first principles, constants found again, cores shared, clear errors."""

from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cost_model.cost_model import CostModel, compare_with_measured, fit, prediction_errors, split_held_out
from cost_model.projection import LINKS, NOTES, DeepNetwork, plot_projection, project, projection_plots
from cost_model.step_counts import NAMES, Constants
from cost_model.workload import ComparisonSetup, Stage, System, Workload, join_stages, traffic_bytes
from scripting import strategy_named

import partrain
from partrain.comparison.grid import Cell
from partrain.data import Dataset
from partrain.errors import UserError
from partrain.launch.settings import Local
from partrain.networks import MLP
from partrain.partition.plan import PartitionSettings
from partrain.strategies.settings import PIPELINES, Synthetic
from partrain.training.optimization import TrainSettings

PARAMETERS = 1_476_655  # of 784-512×5-47
NONE = Constants(**dict.fromkeys(NAMES, 0.0))
KNOWN = Constants(
    flop=2e-11,
    weight=3e-10,
    activation=1e-10,
    optimizer=1e-9,
    layer=8e-5,
    fork=2e-5,
    step=5e-4,
    microbatch=9e-4,
    unit=2e-3,
    message=2e-4,
    byte=8e-10,
    round=1e-4,
    collective_byte=1e-9,
)
STRATEGIES = (
    "end_to_end",
    "data_parallel",
    "fully_sharded",
    "model_parallel",
    "gpipe",
    "1f1b",
    "decoupled",
    "synthetic",
)


@cache
def comparison(cores: int | None = 2, precision: str = "bf16", nccl: bool = False) -> ComparisonSetup:
    return ComparisonSetup(precision=precision, system=System(cores=cores, nccl=nccl))


def model(constants: Constants = KNOWN, **options: Any) -> CostModel:
    return CostModel(constants=constants, setup=comparison(**options))


def cell(strategy: str, segments: int = 2, width: int = 512, batch_size: int = 256, microbatches: int = 4) -> Cell:
    return Cell(
        strategy=strategy,
        network="mlp",
        width=width,
        segments=1 if strategy == "end_to_end" else segments,
        batch_size=batch_size,
        microbatches=microbatches if strategy in PIPELINES else None,
    )


@cache
def table() -> list[dict[str, Any]]:
    """Rows as a comparison's table.csv has them, text all, of times that the known constants give."""
    truth = model()
    cells = {
        cell(strategy, segments, width, batch_size, microbatches)
        for strategy in STRATEGIES
        for segments in (2, 4)
        for width in (64, 256, 1024)
        for batch_size in (64, 256)
        for microbatches in ((4, 8) if strategy in PIPELINES else (4,))
    }
    rows = [
        asdict(each)
        | {
            "microbatches": each.microbatches or "",
            "samples_per_second": each.batch_size / truth.predict(each).seconds,
            "traffic_bytes_per_step": truth.predict_traffic(each),
        }
        for each in sorted(cells, key=str)
    ]
    return [{name: str(value) for name, value in row.items()} for row in rows]


def test_bytes_of_replicas() -> None:
    """All-reduce: every process sends 2 (N - 1) / N of its gradients; FSDP gathers weights in bf16 twice and reduces."""
    assert model().predict_traffic(cell("data_parallel", 2)) == pytest.approx(2 * 4 * PARAMETERS)
    assert model().predict_traffic(cell("data_parallel", 4)) == pytest.approx(6 * 4 * PARAMETERS)
    assert model().predict_traffic(cell("fully_sharded", 2)) == pytest.approx((2 * 2 + 2 * 4) * PARAMETERS)
    assert model(nccl=True).predict_traffic(cell("fully_sharded", 4)) == pytest.approx(3 * (2 * 2 + 4) * PARAMETERS)
    assert model(precision="fp32").predict_traffic(cell("fully_sharded", 2)) == pytest.approx(
        (2 * 4 + 2 * 4) * PARAMETERS
    )


@pytest.mark.parametrize("segments", [2, 3, 6])
def test_bytes_of_stages(segments: int) -> None:
    """A boundary's activations go to the right, and their gradients, just as large, to the left."""
    boundaries = (segments - 1) * 256 * 512 * 2
    for strategy in ("model_parallel", "gpipe", "1f1b"):
        assert model().predict_traffic(cell(strategy, segments)) == 2 * boundaries
        assert model(precision="fp32").predict_traffic(cell(strategy, segments)) == 4 * boundaries
    assert model().predict_traffic(cell("decoupled", segments)) == boundaries
    assert model().predict_traffic(cell("synthetic", segments)) == 0
    assert model().predict_traffic(cell("end_to_end")) == 0


@pytest.mark.parametrize("strategy", ["data_parallel", "fully_sharded", "1f1b", "decoupled"])
def test_bytes_as_measured(strategy: str, small: Dataset, tmp_path: Path) -> None:
    """Nothing fitted: what goes over real connections, but for a few headers and padded shards."""
    settings = partrain.RunSettings(
        network=MLP(depth=4, width=256),
        partition=PartitionSettings(segments=2),
        train=TrainSettings(epochs=1, batch_size=128, precision="fp32"),
        strategy=strategy_named(strategy),
        launch=Local(device="cpu"),
    )
    results = partrain.run(settings, tmp_path / "run", dataset=small, show_progress=False)
    here = ComparisonSetup(
        precision="fp32", shared=settings, input_shape=(1, 8, 8), num_classes=5, system=System(cores=2)
    )
    shared = replace(settings, strategy=Synthetic())
    expected = traffic_bytes(replace(here, shared=shared).workload(cell(strategy, 2, 256, 128)), here.system)
    assert expected <= results["traffic_bytes_per_step"] < 1.05 * expected


def test_known_constants_are_found_again() -> None:
    """From times that known constants give, the fit predicts cells it has seen and those with K = 4, held out."""
    rows = table()
    kept, held = split_held_out(rows, segments=4)
    fitted = fit(kept, comparison(), pull=0.001)
    assert prediction_errors(compare_with_measured(fitted, kept))["worst_error"] < 0.01
    assert prediction_errors(compare_with_measured(fitted, held))["worst_error"] < 0.01
    assert len(kept) + len(held) == len(rows)
    assert prediction_errors(compare_with_measured(fit(kept, comparison()), kept))["worst_error"] < 0.01
    assert fitted.error_factors["flop"] == pytest.approx(1, abs=0.01)
    checked = compare_with_measured(fitted, held)[0]
    parts = sum(checked[f"{part}_seconds"] for part in ("compute", "communication", "bubble"))
    assert parts == pytest.approx(checked["predicted_seconds"])
    assert checked["predicted_traffic_bytes"] == pytest.approx(checked["measured_traffic_bytes"])


def test_medians_of_done_runs() -> None:
    """A cell is the median of its repeats; failed runs and the sequential schedule are left out."""
    rows = table()
    one = rows[0]
    speed = float(one["samples_per_second"])
    rows = rows + [one | {"samples_per_second": str(speed * factor)} for factor in (0.5, 1.0, 2.0)]
    rows += [one | {"samples_per_second": ""}, one | {"strategy": "sequential"}]
    assert prediction_errors(compare_with_measured(fit(rows, comparison()), rows))["worst_error"] < 0.01


def alike(strategy: str, count: int, microbatches: int = 1) -> Workload:
    """`count` equal stages, whose only cost is a second per layer."""
    stage = Stage(
        layers=1,
        parameters=1,
        flops=1,
        first_flops=1,
        activation_bytes=1,
        input_shape=(1,),
        output_shape=(1,),
    )
    return Workload(
        strategy=strategy,
        stages=(stage,) * count,
        processes=count,
        batch_size=64,
        microbatches=microbatches,
        num_classes=1,
        feature_bytes=2,
    )


@pytest.mark.parametrize(("count", "microbatches"), [(2, 4), (4, 4), (6, 48)])
def test_bubble(count: int, microbatches: int) -> None:
    """Of a pipeline of equal stages (K - 1) / (m + K - 1) is bubble; of model parallel (K - 1) / K."""
    seconds = model(replace(NONE, layer=1.0))
    for strategy in PIPELINES:
        step = seconds.step_time(alike(strategy, count, microbatches), System(cores=None))
        assert step.seconds == pytest.approx(microbatches + count - 1)
        assert step.bubble / step.seconds == pytest.approx((count - 1) / (microbatches + count - 1))
    step = seconds.step_time(alike("model_parallel", count), System(cores=None))
    assert step.bubble / step.seconds == pytest.approx((count - 1) / count)


@pytest.mark.parametrize("strategy", ["synthetic", "decoupled"])
def test_cores_are_shared(strategy: str) -> None:
    """Four processes of one second each: one second on a core each, two on two cores, four on one."""
    seconds = model(replace(NONE, step=1.0))
    times = [seconds.step_time(alike(strategy, 4), System(cores=cores)).seconds for cores in (None, 4, 2, 1)]
    assert times == pytest.approx([1, 1, 2, 4])


def test_threads_share_the_arithmetic() -> None:
    """A process alone on two cores halves its operations, not its calls, and pays for every shared layer."""
    work = alike("end_to_end", 1)
    two = System(cores=2)
    assert model(replace(NONE, optimizer=1.0)).step_time(work, two).seconds == pytest.approx(0.5)
    assert model(replace(NONE, layer=1.0, fork=0.25)).step_time(work, two).seconds == pytest.approx(1.25)


def test_input_gradients() -> None:
    """A segment fed synthetic samples needs no gradient of its input; a stage of model parallel does."""
    flops = replace(NONE, flop=1.0)
    stage = comparison().workload(cell("model_parallel", 6)).stages[2]
    assert stage.first_flops == stage.flops == 2 * 512 * 512
    devices = System(cores=None)
    stages = (stage, stage)
    works = {
        strategy: replace(alike(strategy, 2), stages=stages, num_classes=0)
        for strategy in ("synthetic", "model_parallel")
    }
    assert model(flops).step_time(works["synthetic"], devices).seconds == 64 * 2 * stage.flops
    assert model(flops).step_time(works["model_parallel"], devices).seconds == 64 * (2 + 3) * stage.flops


def test_bytes_move_while_gpus_compute() -> None:
    """With NCCL an all-reduce hides behind the backward pass, a third being forward; with gloo the cores move bytes."""
    work = replace(alike("data_parallel", 1), processes=2)
    constants = replace(NONE, layer=3.0, round=1.0)
    assert model(constants).step_time(work, System(cores=None)).seconds == pytest.approx(3 + 2)
    assert model(constants).step_time(work, System(cores=None, nccl=True)).seconds == pytest.approx(max(3, 1 + 2))


def test_too_few_cells() -> None:
    rows = [row for row in table() if row["strategy"] == "end_to_end"]
    with pytest.raises(UserError) as error:
        fit(rows[:3], comparison())
    assert str(error.value) == (
        "Cost model: 3 cells are too few to fit 7 constants (flop, weight, activation, optimizer, layer, fork, step); "
        "measure at least 7: more widths, batch sizes or numbers of segments"
    )
    with pytest.raises(UserError, match="0 cells are too few"):
        fit([], comparison())
    with pytest.raises(UserError, match="no measured cell to check"):
        prediction_errors([])


def test_unknown_strategy() -> None:
    with pytest.raises(UserError, match=r"strategy=magic is unknown; known: .*synthetic"):
        model().predict(cell("magic"))


def test_strategy_that_was_not_fitted() -> None:
    rows = [row for row in table() if row["strategy"] in ("synthetic", "end_to_end")]
    with pytest.raises(UserError) as error:
        fit(rows, comparison()).predict(cell("data_parallel"))
    assert str(error.value) == (
        "Cost model: strategy=data_parallel depends on collective_byte, round, on which no fitted cell depends; "
        "add cells of that strategy to the fitted ones"
    )


def test_projection(tmp_path: Path) -> None:
    """Rows for this machine's cores and every link; replicas divide the batch, stages have a layer at least."""
    network = DeepNetwork(depth=12, width=128, batch_size=60)
    rows = project(model(), network, devices=(2, 4, 8, 12, 20))
    assert {row["system"] for row in rows} == {rows[0]["system"], *(f"GPUs, {link.name}" for link in LINKS)}
    here = [row for row in rows if row["system"] == rows[0]["system"]]
    counts = {name: [row["devices"] for row in here if row["strategy"] == name] for name in STRATEGIES}
    assert counts["end_to_end"] == [1]
    assert counts["data_parallel"] == counts["fully_sharded"] == [2, 4, 12, 20]
    assert counts["synthetic"] == counts["gpipe"] == counts["1f1b"] == [2, 4, 8, 12]
    speed = {(row["strategy"], row["devices"]): row["projected_samples_per_second"] for row in here}
    assert speed["synthetic", 2] < speed["synthetic", 12]
    assert speed["1f1b", 12] <= speed["gpipe", 12]  # which may have fewer microbatches
    plot_projection(rows, tmp_path / "projection.png")
    assert (tmp_path / "projection.png").stat().st_size > 10_000
    plots = projection_plots(rows)
    assert len(plots) == 2 + len(LINKS)
    assert all(plot.title.startswith("Projection, not measured") for plot in plots)
    assert any("unknown" in note for note in NOTES)


def test_layers_of_a_deep_network() -> None:
    """Replicated from a plan of three layers they are what the whole plan says."""
    shared = comparison()
    layers = DeepNetwork(depth=6, width=512).layers(shared)
    whole = join_stages(layers)
    assert whole.parameters == PARAMETERS
    assert join_stages(layers[:3]) == shared.workload(cell("gpipe")).stages[0]
    assert whole == shared.workload(cell("end_to_end")).stages[0]
