"""Figures of a run's processes: when each trained, and what it took."""

from collections.abc import Sequence

from partrain.report.canvas import Plot, add_rows, line_style, make_figure, name_rows, rows_height
from partrain.report.formatting import byte_unit
from partrain.report.record import Process
from partrain.report.style import COLOURS


def time_line(processes: Sequence[Process]) -> list[Plot]:
    """Who trained when: a row per process, a bar per epoch."""
    shown = [process for process in processes if process.timeline]
    if not shown:
        return []
    start = min(process.timeline[0][0] for process in shown)
    figure = make_figure("seconds since the first epoch began", "", barmode="overlay", bargap=0.35, showlegend=False)
    for index, process in enumerate(processes):
        epochs = process.timeline
        figure.add_bar(
            orientation="h",
            y=[process.label] * len(epochs),
            base=[first - start for first, _ in epochs],
            x=[last - first for first, last in epochs],
            marker={"color": line_style(index)["color"], "line": {"color": "#ffffff", "width": 1.5}},
            customdata=[[number, last - start] for number, (_, last) in enumerate(epochs, start=1)],
            hovertemplate="epoch %{customdata[0]}: %{base:.1f} s to %{customdata[1]:.1f} s, %{x:.1f} s long<extra>"
            + process.label
            + "</extra>",
        )
    name_rows(figure)
    figure.update_xaxes(rangemode="tozero")
    return [Plot("Time line", "A bar per epoch of each process.", figure, rows_height(len(shown)))]


def memory(processes: Sequence[Process]) -> list[Plot]:
    """Peak memory by process: its parameters, its optimiser's state, and all the rest."""
    results = {process.label: process.result for process in processes if process.result}
    if not results:
        return []
    peaks = {label: int(result["peak_memory_bytes"]) for label, result in results.items()}
    parameters = {label: int(result.get("parameter_bytes") or 0) for label, result in results.items()}
    state = {label: int(result.get("optimizer_state_bytes") or 0) for label, result in results.items()}
    rest = {label: max(0, peaks[label] - parameters[label] - state[label]) for label in results}
    unit, one = byte_unit(max(peaks.values()))
    figure = make_figure(f"peak memory, {unit}", "", barmode="stack", bargap=0.35)
    for name, parts, colour in (
        ("parameters", parameters, COLOURS[0]),
        ("optimiser state", state, COLOURS[4]),
        ("all else", rest, COLOURS[5]),
    ):
        rows = {label: number / one for label, number in parts.items()}
        add_rows(figure, rows, name, colour, f"%{{x:.1f}} {unit}")
    caption = "What each process took at its peak; all else: gradients, activations, libraries."
    return [Plot("Memory", caption, figure, rows_height(len(results)))]


def traffic(processes: Sequence[Process]) -> list[Plot]:
    """Bytes over each process's connections, where there were any, and how busy its threads were."""
    plots = []
    sent = {process.label: process.result.get("sent_bytes") or 0 for process in processes if process.result}
    received = {process.label: process.result.get("received_bytes") or 0 for process in processes if process.result}
    if any(sent.values()):
        unit, one = byte_unit(max(*sent.values(), *received.values()))
        figure = make_figure(f"over its connections, {unit}", "", barmode="group", bargap=0.35)
        for name, numbers, colour in (("sent", sent, COLOURS[1]), ("received", received, COLOURS[2])):
            rows = {label: number / one for label, number in numbers.items()}
            add_rows(figure, rows, name, colour, f"%{{x:,.2f}} {unit}")
        plots.append(Plot("Traffic", "Bytes that each process sent and received.", figure, rows_height(len(sent))))
    shares = {process.label: process.result.get("utilization") for process in processes}
    busy = {label: 100 * share for label, share in shares.items() if share is not None}
    if busy:
        figure = make_figure("utilisation, %", "", bargap=0.35, showlegend=False)
        add_rows(figure, busy, "utilisation", COLOURS[2], "%{x:.0f} %")
        figure.update_xaxes(range=[0, max(100, *busy.values())])
        caption = "CPU time over the time that the process's threads had."
        plots.append(Plot("Utilisation", caption, figure, rows_height(len(busy))))
    return plots
