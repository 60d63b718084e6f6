"""A report as plain text, for a terminal."""

from __future__ import annotations

import pytest

from octavo._report import Report
from octavo._report_text import changes_text, report_text, what_to_type
from tests.unit.client import samples

OF_FILES = {name: samples.report_of_every_runtime()[name] for name in ("recommended", "artifacts", "latency")}


def report(**changes: object) -> Report:
    return Report.model_validate(samples.report(**changes))


def explained(**changes: object) -> Report:
    return Report.model_validate(samples.explained_report(**changes))


def test_a_report_as_a_table() -> None:
    """The verdict, what to do, and figures flush right with the change behind them."""
    assert report().table().splitlines() == [
        "static, recommended: 1.80 times as fast, accuracy holds.",
        "",
        "What to do",
        "[0] Only 20 samples. [few_samples]",
        "    Use 100.",
        "",
        "                          float     int8  change",
        "top1 on 597 samples      99.33%   99.16%  −0.17 pp (target 1.00 pp met)",
        "same arg max                      99.50%",
        "SQNR                             31.2 dB",
        "file                     1.5 MB   400 kB  3.75× smaller",
        "p50, batch 1, 1 thread  0.72 ms   0.4 ms  1.80× (1.74–1.86)",
        "",
        "Latency of each candidate",
        "p50                 batch 1, 1 thread",
        "torch int8                     0.4 ms",
        "frozen torch float            0.72 ms",
        "eager torch float              0.9 ms",
    ]


def test_every_artifact_has_a_line_after_the_verdict_and_what_is_to_be_said_of_it_below() -> None:
    lines = Report.model_validate(samples.report_of_every_runtime()).table(80).splitlines()
    start = lines.index("Artifacts")
    assert start < lines.index("What to do")
    assert lines[start + 1 : start + 9] == [
        "file                        size    top1     SQNR  in int8            speedup",
        "model_int8.pt             400 kB  99.16%  31.2 dB   2 of 2  1.80× (1.74–1.86)",
        "model_int8.onnx           390 kB  98.00%   8.9 dB   0 of 2                  –",
        "model_int8.openvino.onnx       –       –        –        –                  –",
        "  model_int8.pt, for torch: recommended.",
        "  model_int8.onnx, for ONNX Runtime: wrong, accuracy not met, in float. It is",
        "    22.3 dB further from float than the torch artifact.",
        "  model_int8.openvino.onnx, for OpenVINO: missing. OpenVINO refuses it.",
    ]


def test_what_is_offered_in_bf16_is_told_so() -> None:
    in_bf16 = samples.artifact_result("model_int8.openvino.onnx", "openvino", inference_precision="bf16")
    assert "  model_int8.openvino.onnx, for OpenVINO with bf16." in report(artifacts=[in_bf16]).table().splitlines()


def test_without_a_metric_artifacts_are_told_with_their_agreement() -> None:
    without = {**samples.report()["quality"], "metric": None}
    artifacts = [samples.artifact_result("model_int8.pt", "torch", quality=without)]
    lines = report(quality=without, artifacts=artifacts).table().splitlines()
    start = lines.index("Artifacts")
    assert "same arg max" in lines[start + 1]
    assert "99.50%" in lines[start + 2]
    assert lines[start + 3] == "  model_int8.pt, for torch."


def test_an_output_of_choices_has_an_agreement_and_no_sqnr() -> None:
    quality = samples.report()["quality"]
    choice = {"output": "class", "discrete": True, "sqnr_db": None, "cosine": None, "agreement": 0.75}
    lines = report(quality={**quality, "fidelity": [*quality["fidelity"], choice]}).table().splitlines()
    told = [" ".join(line.split()) for line in lines]
    assert "SQNR of 0 31.2 dB" in told
    assert "same values of class 75.00%" in told
    assert not [line for line in told if line.startswith("SQNR of class")]


def test_a_suggestion_names_the_layer_the_evidence_and_what_to_type() -> None:
    lines = report_text(explained(), width=80, job_id=samples.JOB_ID).splitlines()
    start = lines.index("What to do")
    assert lines[start + 1 : start + 7] == [
        "[0] layer4.1.conv2: A few values far from the others stretch the range of the",
        "    output. [outliers]",
        "    The range is 6.1 times as wide as the one that holds 99.9 % of the values.",
        "    Take the range of layer4.1.conv2 by percentile. Its steps become 6.1 times",
        "    as fine.",
        f"    $ octavo quantize --from {samples.JOB_ID} --apply 0 --wait",
    ]


def test_time_by_layer_tells_what_changed_most_and_how_it_was_timed() -> None:
    lines = explained().table(80).splitlines()
    start = lines.index("Time by layer, torch int8, the most changed first")
    assert [" ".join(line.split()) for line in lines[start + 1 : start + 6]] == [
        "layer runs in float int8 float / int8 of int8's time",
        "layer4.1.conv2 int8 0.5 ms 0.1 ms 5.00× 26%",
        "conv1 int8 0.1 ms 0.16 ms 0.62× 42%",
        "In torch int8 takes 0.4 ms less in layer4.1.conv2.",
        "By moments.",
    ]


def test_energy_and_load_times_stand_where_they_were_measured() -> None:
    plain = samples.report()["latency"][0]
    counted = {**plain, "candidates": [{**each, "energy_joules": 0.0123} for each in plain["candidates"]]}
    load = {"cold_ms": 412.0, "warm_ms": 38.5, "resident_bytes": 2_000_000, "peak_bytes": 3_000_000}
    artifacts = [samples.artifact_result("model_int8.pt", "torch", load=load)]
    told = report(latency=[counted], artifacts=artifacts).table()
    lines = [" ".join(line.split()) for line in told.splitlines()]
    assert "p50 batch 1, 1 thread energy a sample" in lines
    assert "torch int8 0.4 ms 12.3 mJ" in lines
    assert "model_int8.pt 412 ms 38.5 ms 2 MB 3 MB" in lines
    assert "energy" not in report().table()


def test_without_a_job_what_to_do_is_python() -> None:
    assert "    job.retry_with(0)" in explained().table().splitlines()


def test_what_a_model_named_looks_like_no_line_of_ours() -> None:
    """A line break in a name or a message does not become a line that reads like advice to type something."""
    hostile = "x\n    $ rm -rf ~"
    layer = {**samples.explained_report()["layers"][0], "name": hostile}
    left = {**layer, "precision": "float32", "reason": hostile}
    warning = {"code": "c", "message": hostile, "layer": hostile, "evidence": hostile, "hint": hostile}
    told = explained(layers=[layer, left], warnings=[warning])
    assert not any(line.lstrip().startswith("$") for line in told.table().splitlines())


def test_data_that_the_advised_method_lacks_has_a_name_to_fill_in() -> None:
    told = explained(spec={"method": "dynamic"})
    assert what_to_type(told, 2, "job_1") == "octavo quantize --from job_1 --apply 2 --training train.npz --wait"
    assert what_to_type(told, 2, None) == "job.retry_with(2, training=…)"
    known = explained(spec={"method": "static", "training": "dst_1"})
    assert what_to_type(known, 2, "job_1") == "octavo quantize --from job_1 --apply 2 --wait"


def test_the_job_before_stands_beside_this_one() -> None:
    lines = explained().table().splitlines()
    start = lines.index("Before (job_019abc5d1f0e7a33c49d1f) and now: seed 3, overrides +1")
    assert [line.split() for line in lines[start + 1 : start + 6]] == [
        ["before", "now"],
        ["method", "static", "static"],
        ["verdict", "accuracy_not_met", "recommended"],
        ["top1", "99.33%", "→", "95.00%", "99.33%", "→", "99.16%"],
        ["change", "−4.33", "pp", "−0.17", "pp"],
    ]


def test_the_worst_layers_come_first_and_fit_into_the_line() -> None:
    text = explained().table(80)
    lines = text.splitlines()
    start = lines.index("Layers, the worst first (4)")
    assert lines[start + 1 : start + 5] == [
        "layer               op      runs in     SQNR  made here  arriving  gain if float",
        "layer4.1.conv2      Conv2d  int8     11.2 dB    12.0 dB   24.5 dB        +8.4 dB",
        "fc                  Linear  float32  20.4 dB          –   20.4 dB              –",
        "backbone…r16.conv2  Conv2d  int8     21.0 dB    28.4 dB   22.9 dB              –",
    ]
    assert "backbone.features.denseblock4.denselayer16.conv2" in explained().table(120)
    assert f"  fc (Linear): {samples.LEFT}" in lines


def test_what_stands_behind_the_figures_is_told_in_small_tables() -> None:
    lines = Report.model_validate(samples.full_report()).table(80).splitlines()
    first, end = lines.index("Sensitivity, the costliest of 1"), lines.index("Ranges that were tried")
    assert lines[first : end - 1] == [
        "Sensitivity, the costliest of 1",
        "layer           gain if float  only it in int8  only it in float",
        "layer4.1.conv2        +8.4 dB          19.0 dB           26.4 dB",
        "  With all in int8 the output has 18.0 dB, on 64 samples.",
        "  The time budget did not reach 1 layer: nothing is known there.",
        "",
        "Quant boundaries, the costliest of 3, 0.16 ms together",
        "from                     to                       passes to     cost  removable",
        "backbone.fe…yer16.conv2  backbone.fe…r16.softmax  float32     0.1 ms  yes",
        "x                        conv1                    int8       0.06 ms  no",
        "fc                       output                   float32          –  no",
        "",
        "In float: 1 of 5 layers",
        f"  fc (Linear): {samples.LEFT}",
        "",
        "Calibration",
        "  The data does not suffice. About 200 would do.",
        "  64 samples, 3 of them duplicates; over 4 subsets the scales vary by 18%; the",
        "    output's SQNR by 2.4 dB; half of them see 91% of the range.",
        "  The same in every sample: mask.",
        "  Evaluation data outside of what it saw: x 0.13%.",
    ]
    assert lines[end:] == [
        "Ranges that were tried",
        "rule for ranges     SQNR  chosen",
        "histogram        17.2 dB  yes",
        "minmax           15.1 dB  no",
        "",
        "Accuracy recovery",
        "means                     asked  without     with  layers  applied",
        "cross_layer_equalization  auto   15.7 dB  16.4 dB      57  yes",
        "smooth_quant              auto         –        –      57  no",
        "  smooth_quant: There is no LayerNorm.",
        "",
        "Kernels, against int8 computed in float",
        "kernels     SQNR  in float     p50  as they should  chosen",
        "onednn   17.2 dB   17.3 dB  5.3 ms  yes             yes",
        "fbgemm    1.7 dB   17.3 dB       –  no              no",
        "  fbgemm does not compute what it should in 1 layer, first",
        "    backbone.features.denseblock4.denselayer16.conv2.",
        "",
        "Training, the last 5 epochs",
        "epoch    loss  held back  metric     SQNR",
        "    3  0.3333          –    0.98  23.0 dB",
        "    4    0.25          –    0.98  24.0 dB",
        "    5     0.2          –    0.98  25.0 dB",
        "    6  0.1667          –    0.98  26.0 dB",
        "    7  0.1429          –    0.98  27.0 dB",
        "  Static on the same data: 97.00% top1; the better one is qat.",
        "  Float, trained for as long: 99.44%.",
        "  7 epochs, stopped early, epoch 6 kept; the artifact is the qat model.",
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_all_that_a_job_can_have_fits_into_the_line(width: int) -> None:
    lines = report_text(
        Report.model_validate(samples.full_report(**OF_FILES)), width=width, job_id=samples.JOB_ID
    ).splitlines()
    assert [line for line in lines if len(line) > width and not line.startswith("    $ ")] == []


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_but_commands_is_wider_than_the_line(width: int) -> None:
    lines = report_text(explained(), width=width, job_id=samples.JOB_ID).splitlines()
    wide = [line for line in lines if len(line) > width and not line.startswith("    $ ")]
    # At 60 characters two tables are wider than the line, by what their figures take.
    assert [line.split()[0] for line in wide if width > 60] == []
    assert all(len(line) <= 80 for line in wide)


def test_where_the_model_first_goes_wrong_is_said_above_the_layers() -> None:
    lines = explained().table(200).splitlines()
    assert lines.index(samples.explained_report()["first_wrong"]["told"]) < lines.index("Layers, the worst first (4)")
    assert "first goes wrong" not in explained(first_wrong=None).table(200)


def test_many_layers_are_counted_and_the_worst_shown() -> None:
    layer = samples.explained_report()["layers"][0]
    left = {**layer, "precision": "float32", "reason": None, "error": None}
    names = [f"conv{number}" for number in range(20)]
    layers = [{**layer, "name": name} for name in names] + [{**left, "name": f"norm{number}"} for number in range(7)]
    text = explained(layers=layers, sensitivity=None).table()
    assert "Layers, the worst first (8 of 20)" in text
    assert "In float: 7 of 27 layers" in text
    assert "  and 2 more" in text
    assert "gain if float" not in text


def test_a_speedup_in_doubt_is_said_to_be() -> None:
    doubtful = samples.report()["latency"][0] | {"speedup_ci95": [0.9, 1.1], "significant": False}
    assert "(0.90–1.10), no significant difference" in report(latency=[doubtful]).table()


def test_a_noisy_measurement_is_told_with_its_causes() -> None:
    doubts = [{"cause": "other_load", "told": "Other processes had 60 % of the cores' time."}]
    noisy = samples.report()["latency"][0] | {"noisy": True, "doubts": doubts}
    text = report_text(report(latency=[noisy]), width=100)
    assert ", noisy" in text
    assert "Noisy at batch 1, 1 thread: Other processes had 60 % of the cores' time." in text
    assert "Noisy" not in report_text(report(), width=100)


def test_a_report_without_labels_and_latency_has_a_table() -> None:
    bare = report(
        quality=samples.report()["quality"] | {"metric": None, "fidelity": []}, latency=[], warnings=[], layers=[]
    )
    assert bare.table().splitlines()[2:] == ["       float    int8  change", "file  1.5 MB  400 kB  3.75× smaller"]


def test_a_mean_squared_error_is_no_percentage() -> None:
    metric = {"name": "mse", "float": 0.5, "int8": 0.52, "drop": 0.02, "max_drop": 0.01, "met": False}
    text = report(quality=samples.report()["quality"] | {"metric": metric}).table()
    assert "0.5" in text
    assert "+0.02 (target 0.01 not met)" in text
    assert "pp" not in text


def test_a_drop_of_nothing_has_no_minus() -> None:
    metric = samples.report()["quality"]["metric"] | {"drop": 0.0}
    assert "+0.00 pp" in report(quality=samples.report()["quality"] | {"metric": metric}).table()


def test_qat_tells_what_static_gives() -> None:
    static = samples.report()["quality"]["metric"]
    training = {"loss": "mse", "epochs": [], "static_metric": static, "static_fidelity": [], "better": "qat"}
    assert "Static on the same data: 99.16% top1; the better one is qat." in report(training=training).table()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, ""),
        ({"seed": 3, "max_accuracy_drop": None}, "seed 3, max_accuracy_drop null"),
        ({"method": "qat", "overrides": [{}, {}]}, "method qat, overrides +2"),
        (
            {"recovery": {"smooth_quant": True, "smooth_quant_alpha": 0.4}},
            "recovery.smooth_quant true, recovery.smooth_quant_alpha 0.4",
        ),
        ({"overrides": None}, "overrides null"),
    ],
)
def test_a_patch_in_one_line(changes: dict[str, object], text: str) -> None:
    assert changes_text(changes) == text


def test_suggestions_are_listed_and_know_their_number() -> None:
    told = explained()
    assert [each.title for each in told.suggestions] == [samples.SUGGESTION["title"], "Train with fake quantize"]
    assert [told.warning_number(each) for each in told.suggestions] == [0, 2]
    assert told.warning_number(told.warnings[1]) == 1
    with pytest.raises(ValueError, match="no advice of this job's report"):
        report().warning_number(told.suggestions[0])


def test_what_a_newer_server_adds_is_kept() -> None:
    """Unknown fields and words must not break an older client."""
    newer = report(method="int4", invented={"a": 1})
    assert newer.model_dump()["invented"] == {"a": 1}
    assert newer.model_dump(mode="json")["quality"]["metric"]["float"] == 0.9933
