"""How QAT went, beside static PTQ and the float model trained for as long."""

from __future__ import annotations

from shared.job_report import EpochResult, JobReport, MetricResult, TrainingResult
from worker.report_page.figures import NONE, decibels, plural, seconds, significant
from worker.report_page.layout import Column, Section, badge, figure, note, subheading, table
from worker.report_page.markup import Content, Html, element, join, shorten
from worker.report_page.plots import Line, lines
from worker.report_page.sections.quality import fidelity_table
from worker.report_page.sections.verdict import METRIC_NAMES, metric_value

_MAX_TEXT = 1000
_STOPPED = {
    "completed": "Training ran to its end.",
    "early": "Training stopped early: it no longer got better.",
    "diverged": "Training diverged and was stopped; the best so far was kept.",
}
_BETTER = {
    "qat": "QAT gives the better int8 model.",
    "static": "Static quantization gives the better int8 model: training did not pay.",
    "same": "QAT and static quantization give equally good int8 models.",
}


def training(report: JobReport, room: int) -> Section | None:
    """The curves, the epochs, and which int8 model is the better."""
    found = report.training
    if found is None:
        return None
    resumed = found.resumed_after_epoch
    metric = report.quality.metric or found.static_metric
    told = [
        _BETTER[found.better],
        f"The artifact is the {'QAT' if found.offered == 'qat' else 'static'} model.",
        _STOPPED[found.stopped],
        None if found.best_epoch is None else f"The weights of epoch {found.best_epoch} were kept{_chosen_by(found)}.",
        None if resumed is None else f"A lost worker's training was taken up after epoch {resumed}.",
        f"Loss: {found.loss.replace('_', ' ')}.",
        _in_float(found),
    ]
    kind = "bad" if found.stopped == "diverged" else "good" if found.better == "qat" else "fair"
    parts: list[Content] = [
        element("p", " ".join(each for each in told if each), class_=f"finding {kind}"),
        element("div", _plots(found, metric), class_="plots"),
        _comparison(report, found),
        _epochs(found, None if metric is None else metric.name, room),
        _outputs(found, room),
    ]
    return Section("training", "Training", join(parts))


def _chosen_by(found: TrainingResult) -> str:
    if not found.held_back_samples:
        return ""
    return f", the last of those as good as the best on {plural(found.held_back_samples, 'training sample')} held back"


def _in_float(found: TrainingResult) -> str | None:
    """Layers that only one of the two int8 models has in int8: they are not the same model made in two ways."""
    qat, static = found.qat_float_layers, found.static_float_layers
    one_sided = [
        ("Static quantization", "QAT", sorted(static.keys() - qat.keys())),
        ("QAT", "static quantization", sorted(qat.keys() - static.keys())),
    ]
    told = [
        f"{one} left {shorten(', '.join(layers), _MAX_TEXT)} in float, which {other} has in int8."
        for one, other, layers in one_sided
        if layers
    ]
    return " ".join(told) or None


def _plots(found: TrainingResult, metric: MetricResult | None) -> list[Html]:
    if not found.epochs:
        return []
    epochs = found.epochs
    losses = [
        Line("QAT", "int8", [(each.epoch, each.loss) for each in epochs]),
        Line("held back", "other", [(each.epoch, each.held_back_loss) for each in epochs]),
    ]
    drawn = [_plot(losses, "Loss", "Loss by epoch")]
    if metric is not None and any(each.metric is not None for each in epochs):
        percent = metric.name != "mse"
        title = f"{METRIC_NAMES[metric.name]}{', %' if percent else ''}"
        drawn.append(
            _plot(_metric_lines(found, metric.float_value, 100.0 if percent else 1.0), title, f"{title} by epoch")
        )
    elif any(each.sqnr_db is not None for each in epochs):
        line = Line("QAT", "int8", [(each.epoch, each.sqnr_db) for each in epochs])
        drawn.append(_plot([line], "SQNR, dB", "SQNR of the output by epoch"))
    return drawn


def _metric_lines(found: TrainingResult, float_value: float, factor: float) -> list[Line]:
    epochs = found.epochs

    def scaled(value: float | None) -> float | None:
        return None if value is None else value * factor

    def level(value: float) -> list[tuple[float, float | None]]:
        return [(epochs[0].epoch, value * factor), (epochs[-1].epoch, value * factor)]

    series = [
        Line("QAT", "int8", [(each.epoch, scaled(each.metric)) for each in epochs]),
        Line("float, trained", "float32", [(each.epoch, scaled(each.float_metric)) for each in epochs]),
        Line("float", "float32 dotted", level(float_value)),
    ]
    if found.static_metric is not None:
        series.append(Line("static int8", "int8 dotted", level(found.static_metric.int8_value)))
    return series


def _plot(series: list[Line], y_title: str, caption: str) -> Html:
    return figure(caption, lines(series, label=caption, x_title="epoch", y_title=y_title), label=caption)


def _comparison(report: JobReport, found: TrainingResult) -> Content:
    metric, static = report.quality.metric, found.static_metric
    if metric is None:
        return None
    columns = [Column("Model"), Column(METRIC_NAMES[metric.name], "number")]
    rows: list[list[Content]] = [["float", metric_value(metric.name, metric.float_value)]]
    if found.finetuned_metric is not None:
        rows.append(["float, trained for as many epochs", metric_value(metric.name, found.finetuned_metric)])
    trained = found.qat_metric or (metric if found.offered == "qat" else None)
    for method, each in (("static", static), ("qat", trained)):
        if each is not None:
            offered = (" ", badge("offered", "yes")) if found.offered == method else None
            rows.append([["int8, static" if method == "static" else "int8, QAT", offered], _int8(each)])
    told = note(
        "What training alone gains shows in the float model trained for as many epochs: QAT is to be held against it."
    )
    return join([told, table("The models side by side", columns, rows)])


def _int8(metric: MetricResult) -> str:
    return metric_value(metric.name, metric.int8_value)


def _epochs(found: TrainingResult, metric: str | None, room: int) -> Content:
    if not found.epochs:
        return None
    columns = [
        Column("Epoch", "number"),
        Column("Loss", "number"),
        Column("Held-back loss", "number", "On training samples held back: what the best epoch is chosen by"),
        Column("Metric", "number"),
        Column("Float metric", "number"),
    ]
    columns += [Column("SQNR", "number"), Column("Learning rate", "number"), Column("Time", "number"), Column("Kept")]
    rows = [_epoch(each, metric, kept=each.epoch == found.best_epoch) for each in found.epochs]
    return table("Epochs", columns, rows, tall=len(rows) > 40, room=room, noun="epoch")


def _epoch(epoch: EpochResult, metric: str | None, *, kept: bool) -> list[Content]:
    return [
        epoch.epoch,
        significant(epoch.loss, 4),
        significant(epoch.held_back_loss, 4),
        *(NONE if metric is None else metric_value(metric, each) for each in (epoch.metric, epoch.float_metric)),
        decibels(epoch.sqnr_db, NONE),
        significant(epoch.learning_rate),
        seconds(epoch.seconds),
        badge("kept", "yes") if kept else NONE,
    ]


def _outputs(found: TrainingResult, room: int) -> Content:
    both = {"Outputs of the QAT model": found.qat_fidelity, "Outputs of the static int8 model": found.static_fidelity}
    return join(
        [(subheading(title), fidelity_table(title, outputs, room)) for title, outputs in both.items() if outputs]
    )
