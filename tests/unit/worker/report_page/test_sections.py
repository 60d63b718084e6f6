"""What the sections say, held against the report that they are made of."""

from __future__ import annotations

import json

from shared.job_report import JobReport, OutputFidelity, ReportWarning, Suggestion
from shared.latency_report import Roofline, Speedup
from shared.layer_report import FirstWrong
from tests.unit.worker.report_page.parsed import Node, parse
from tests.unit.worker.report_page.samples import (
    WRONG_LAYER,
    bare_dynamic,
    every_runtime,
    none_recommended,
    residual_cnn,
    trained,
)
from worker.report_page import render_page

JOB = "job_019abc5d1f0e7a33c49d20"


def section(report: JobReport, anchor: str) -> Node:
    page = parse(render_page(report, job_id=JOB))
    [found] = [each for each in page.all("section") if each["aria-labelledby"] == anchor]
    return found


def rows(node: Node, caption: str) -> dict[str, list[str]]:
    """The cells of a table by the name of the row."""
    [table] = [each for each in node.all("table") if each.one("caption").text().startswith(caption)]
    return {
        row.all("th")[0].text(): [cell.text().replace("\u00a0", " ").strip() for cell in row.all("td")]
        for row in table.one("tbody").all("tr")
    }


def rows_of(node: Node, caption: str) -> list[list[str]]:
    """All cells, of a table whose rows may have the same name."""
    [table] = [each for each in node.all("table") if each.one("caption").text() == caption]
    return [[cell.text() for cell in row.all("th", "td")] for row in table.one("tbody").all("tr")]


def plain(node: Node) -> str:
    return node.text().replace("\u00a0", " ").replace("\u202f", " ")


def test_the_verdict_says_the_word_the_sentence_and_four_figures() -> None:
    said = section(residual_cnn(), "verdict")
    assert [each.text() for each in said.all("dt")] == ["Top-1 accuracy", "Speedup", "Size", "Measured on"]
    assert [plain(each) for each in said.all("strong")] == ["90.85 %", "2.32×", "11.4 MB", "2 000"]
    told = plain(said)
    assert "Accuracy not met" in told
    assert "float 93.40 %, drop 2.55 points: target not met" in told
    assert "95 % interval 2.28 to 2.37" in told
    assert "samples of evaluation data" in told


def test_without_labels_fidelity_stands_for_accuracy_and_random_inputs_are_not_trusted() -> None:
    told = plain(section(bare_dynamic(), "verdict"))
    assert "Fidelity (SQNR)38.1 dB" in told
    assert "random inputs: trust it little" in told


def test_an_output_of_choices_has_an_agreement_and_no_sqnr() -> None:
    """Beside a signal it is not what the verdict shows; alone it is."""
    report = bare_dynamic()
    [signal] = report.quality.fidelity
    choice = OutputFidelity(output="class", discrete=True, sqnr_db=None, cosine=None, agreement=0.913)
    both, alone = (
        report.model_copy(update={"quality": report.quality.model_copy(update={"fidelity": fidelity})})
        for fidelity in ([signal, choice], [choice])
    )
    assert rows(section(both, "quality"), "Outputs")["class"] == ["–", "–", "91.30 %"]
    assert "Fidelity (SQNR)38.1 dB" in plain(section(both, "verdict"))
    assert "Agreement91.3 %" in plain(section(alone, "verdict"))
    assert "SQNR" not in plain(section(alone, "verdict"))


def test_each_artifact_has_a_row_and_the_recommended_one_is_marked() -> None:
    said = section(every_runtime(), "artifacts")
    table = rows(said, "Artifacts")
    assert {name: " | ".join(cells) for name, cells in table.items()} == {
        "model_int8.pt torch": "11.4 MB | 93.15 % | 31.2 dB | 99.15 % | 17 of 18 | 1.63× | 1.60 to 1.66",
        "model_int8.onnx ONNX Runtime": "11.3 MB | 93.15 % | 31.2 dB | 99.15 % | 15 of 18 | 1.96× | 1.92 to 1.99",
        "model_int8.openvino.onnx OpenVINO recommended": (
            "11.3 MB | 93.15 % | 30.4 dB | 99.00 % | 17 of 18 | 2.98× | 2.92 to 3.04"
        ),
    }
    assert "model_int8.openvino.onnx, for OpenVINO, is recommended." in said.text()
    assert "model_int8.onnx: The runtime computes 3 of 18 operators with weights in float" in said.text()
    assert "The speedup is against OpenVINO float at batch 1, 1 thread." in plain(said)


def test_what_is_offered_in_bf16_is_told_so() -> None:
    *others, openvino = every_runtime().artifacts
    in_bf16 = openvino.model_copy(update={"inference_precision": "bf16"})
    said = section(every_runtime().model_copy(update={"artifacts": [*others, in_bf16]}), "artifacts")
    assert [*rows(said, "Artifacts")][-1] == "model_int8.openvino.onnx OpenVINO with bf16 recommended"
    assert "model_int8.openvino.onnx, for OpenVINO with bf16, is recommended." in said.text()


def test_what_is_wrong_with_an_artifact_stands_beside_its_name_and_a_missing_one_says_why() -> None:
    said = section(none_recommended(), "artifacts")
    table = rows(said, "Artifacts")
    assert list(table) == [
        "model_int8.pt torch slower",
        "model_int8.onnx ONNX Runtime wrong accuracy not met in float",
        "model_int8.openvino.onnx OpenVINO missing",
    ]
    assert table["model_int8.onnx ONNX Runtime wrong accuracy not met in float"][4:] == ["0 of 18", "–", "–"]
    assert set(table["model_int8.openvino.onnx OpenVINO missing"]) == {"–"}
    assert "model_int8.openvino.onnx: OpenVINO has no kernels that find ranges at run time" in said.text()
    assert "None of the files is recommended" in said.text()
    assert "is recommended." not in said.text().replace("None of the files is recommended", "")


def test_quality_latency_and_size_say_which_file_they_are_of() -> None:
    report = every_runtime()
    assert "int8 is model_int8.openvino.onnx here, as OpenVINO computes it." in section(report, "quality").text()
    assert rows(section(report, "size"), "Size on disk") == {
        "float, frozen TorchScript": ["torch", "44\u202f712\u202f300", "44.7 MB", "–"],
        "model_int8.pt": ["torch", "11\u202f402\u202f120", "11.4 MB", "3.92×"],
        "model_int8.onnx": ["ONNX Runtime", "11\u202f310\u202f004", "11.3 MB", "3.95×"],
        "model_int8.openvino.onnx": ["OpenVINO", "11\u202f298\u202f440", "11.3 MB", "3.96×"],
    }
    told = plain(section(report, "verdict"))
    assert "OpenVINO float → OpenVINO int8" in told
    [first, second] = rows_of(section(report, "latency"), "Speedup")
    assert first[1:4] == second[1:4] == ["1", "OpenVINO float", "OpenVINO int8"]


def test_all_nine_candidates_are_drawn_by_name_the_fastest_first_int8_and_float_apart() -> None:
    first, *_ = section(every_runtime(), "latency").all("figure")
    drawn = [each.text() for each in first.all("text") if each["text-anchor"] == "end" and each["class"] is None]
    assert drawn == [
        "OpenVINO int8",
        "ONNX Runtime int8",
        "torch int8",
        "OpenVINO float",
        "OpenVINO bf16",
        "ONNX Runtime float",
        "channels-last torch float",
        "frozen torch float",
        "eager torch float",
    ]
    kinds = [each["class"] for each in first.all("path")]
    assert kinds == ["area int8"] * 3 + ["area float32"] * 6


def test_a_warning_comes_with_its_evidence_its_patch_and_the_command_that_applies_it() -> None:
    report = residual_cnn()
    first, second = section(report, "advice").one("ol").all("li")
    command, patch = first.all("pre")
    assert command.text() == f"octavo quantize --from {JOB} --apply 0 --wait"
    assert report.warnings[0].suggestion is not None
    assert json.loads(patch.text()) == report.warnings[0].suggestion.patch
    for told in (report.warnings[0].message, report.warnings[0].evidence, WRONG_LAYER):
        assert told is not None
        assert told in first.text()
    assert second.all("pre") == []  # there is nothing to apply


def test_a_change_of_method_asks_for_the_data_that_the_job_lacks() -> None:
    report = bare_dynamic()
    suggestion = Suggestion(title="quantize statically", patch={"method": "static"})
    warning = ReportWarning(code="mostly_float", message="Most of the work stays in float.", suggestion=suggestion)
    advised = report.model_copy(update={"warnings": [warning]})
    command, _ = section(advised, "advice").all("pre")
    assert command.text() == f"octavo quantize --from {JOB} --apply 0 --calibration images.npz --wait"


def test_what_a_hint_calls_by_its_name_stands_as_code() -> None:
    hint = "Say `--x` or `<y>`, and no ` alone"
    for told, code in (("Say `--x` or `<y>`.", ["--x", "<y>"]), (hint, [])):
        warning = ReportWarning(code="mostly_float", message="m", hint=told)
        said = section(bare_dynamic().model_copy(update={"warnings": [warning]}), "advice").one("li")
        assert [each.text() for each in said.all("code")] == code
        assert said.text().endswith(told if not code else "Say --x or <y>.")


def test_a_model_that_grew_is_not_called_smaller() -> None:
    report = bare_dynamic()
    grown = report.model_copy(update={"size": report.size.model_copy(update={"ratio": 0.8})})
    for which in ("verdict", "size"):
        assert "1.25× larger" in plain(section(grown, which))


def test_before_and_after_stand_side_by_side() -> None:
    compared = rows(section(residual_cnn(), "advice"), "Before and after")
    assert compared["Top-1 accuracy, int8"] == ["89.30 %", "90.85 %", "+1.55 points"]
    assert compared["SQNR, worst output"] == ["14.2 dB", "16.4 dB", "+2.2 dB"]


def test_what_a_layer_does_to_the_metric_is_told_in_the_metrics_own_unit() -> None:
    """An accuracy in percent; a mean squared error is no share of anything."""
    report = residual_cnn()
    metric = report.quality.metric
    assert metric is not None
    as_mse = report.quality.model_copy(update={"metric": metric.model_copy(update={"name": "mse"})})
    for told, heads, cells in (
        (report, "Top-1 accuracy, only it in int8", ["91.10 %", "90.90 %"]),
        (report.model_copy(update={"quality": as_mse}), "Mean squared error, only it in int8", ["0.9110", "0.9090"]),
    ):
        said = section(told, "sensitivity")
        assert heads in plain(said)
        assert rows(said, "Sensitivity of the layers")[WRONG_LAYER][-2:] == cells


def test_no_warning_is_said() -> None:
    assert "no warning was raised" in section(trained(), "advice").text()


def test_the_page_says_and_marks_what_the_report_says_of_where_it_first_goes_wrong() -> None:
    """Any layer: the page has no rule of its own."""
    wrong = FirstWrong(layer="layer1.0.conv1", told="The int8 model first goes wrong at layer1.0.conv1: so it is told.")
    said = section(residual_cnn().model_copy(update={"first_wrong": wrong}), "layers")
    assert wrong.told in plain(said)
    [marked] = [each for each in said.all("rect") if each["class"] == "bar wrong"]
    assert marked.one("title").text().startswith("layer1.0.conv1: ")
    none = section(residual_cnn().model_copy(update={"first_wrong": None}), "layers")
    assert "first goes wrong" not in none.text()
    assert "bar wrong" not in {each["class"] for each in none.all("rect")}


def test_layers_are_told_with_their_errors_and_the_range_of_their_output() -> None:
    report = residual_cnn()
    said = section(report, "layers")
    assert f"first goes wrong at {WRONG_LAYER}: 13.6 dB at its output, where" in plain(said)
    table = rows(said, "Layers, from input")
    number, operator, precision, own, _, total, macs, weight, least, greatest, scale, zero, flags = table[
        f"{WRONG_LAYER} + bn2"
    ]
    assert (operator, precision, own, total) == ("Conv2d", "int8", "13.5", "13.6")
    assert (least, greatest, scale, zero) == ("−0.400", "214", "0.841", "3")
    assert flags == "dead channelsoutliers"
    assert (macs, weight) == ("57.8", "111")
    assert report.layers[int(number) - 1].name == WRONG_LAYER
    assert len(table) == len(report.layers)


def test_every_tensor_has_its_qparams() -> None:
    report = residual_cnn(2)
    [table] = [each for each in section(report, "layers").all("table") if "Qparams" in each.one("caption").text()]
    assert len(table.one("tbody").all("tr")) == sum(len(each.qparams) for each in report.layers)
    assert "0.0400" in table.text()  # the clipping rate, in %


def test_layers_that_the_budget_did_not_reach_are_named() -> None:
    report = residual_cnn()
    assert report.sensitivity is not None
    said = section(report, "sensitivity")
    assert f"{len(report.sensitivity.not_reached)} layers not reached" in plain(said)
    assert [each.text() for each in said.all("li")] == report.sensitivity.not_reached


def test_the_only_layer_in_int8_gains_all_and_not_a_number_of_decibels() -> None:
    """In float it leaves no noise, and an SQNR without noise is no figure."""
    fields = residual_cnn().model_dump(mode="json")
    only = fields["sensitivity"]["layers"][0]
    fields["sensitivity"]["layers"] = [only | {"alone_float_sqnr_db": None, "gain_db": 183.6}]
    said = section(JobReport.model_validate(fields), "sensitivity")
    assert rows(said, "Sensitivity of the layers")[only["layer"]][0] == "all of it"
    assert "183" not in plain(said)


def test_boundaries_tell_what_would_remove_them_and_float_layers_why() -> None:
    said = section(residual_cnn(), "structure")
    assert rows(said, "Quant boundaries")["layer4.0.add"][-1] == (
        '{"overrides": [{"layer": "gate.*", "precision": "float32"}]}'
    )
    assert rows(said, "Layers and operators in float")["gate.softplus"][-1] == "FX has no int8 kernel for Softplus."
    assert rows(said, "Not fused")["neck.conv, neck.act"][-1] == "onednn has no kernel for this pair."


def test_histograms_draw_the_range_that_int8_holds() -> None:
    report = residual_cnn()
    [first, *_] = section(report, "histograms").all("figure")
    assert len([each for each in first.all("rect") if each["class"] == "band"]) == 1
    assert len([each for each in first.all("line") if each["class"] == "edge"]) == 2
    assert "int8 holds −0.400 to 214; all values inside" in first.text()


def test_data_that_does_not_suffice_says_how_much_would_do() -> None:
    said = section(residual_cnn(), "calibration")
    assert "does not suffice. About 200 samples would do." in plain(said)
    assert rows(said, "Accuracy recovery")["Bias correction"][1:4] == ["15.7 dB", "16.4 dB", "+0.7"]
    assert rows(said, "Kernels")["fbgemm"][-3:] == ["no", "layer2.0.conv1", "no"]
    assert rows(said, "Kernels")["onednn"][-3:] == ["yes", "–", "chosen"]


def test_training_is_held_against_static_and_against_the_float_model_trained_as_long() -> None:
    said = section(trained(), "training")
    assert rows(said, "The models side by side") == {
        "float": ["93.40 %"],
        "float, trained for as many epochs": ["93.80 %"],
        "int8, static": ["90.85 %"],
        "int8, QAT offered": ["93.31 %"],
    }
    drawn = [each.text() for each in said.all("text")]
    assert {"QAT", "float, trained", "float", "static int8"} <= set(drawn)
    kept = "The weights of epoch 8 were kept, the last of those as good as the best on 120 training samples held back."
    assert kept in plain(said)
    assert "Static quantization left fc in float, which QAT has in int8." in plain(said)
    assert "A lost worker's training was taken up after epoch 3." in said.text()
    assert rows(said, "Outputs of the QAT model")["logits"][0] == "24.9 dB"


def test_a_training_that_did_not_pay_offers_the_static_model() -> None:
    report = trained()
    assert report.training is not None
    static = report.training.static_metric
    training = report.training.model_copy(update={"better": "static", "offered": "static", "stopped": "diverged"})
    quality = report.quality.model_copy(update={"metric": static})
    said = section(report.model_copy(update={"training": training, "quality": quality}), "training")
    assert "Static quantization gives the better int8 model" in said.text()
    assert "diverged" in said.text()
    assert rows(said, "The models side by side")["int8, static offered"] == ["90.85 %"]
    assert rows(said, "The models side by side")["int8, QAT"] == ["93.31 %"]


def test_the_graph_is_told_before_and_after_node_by_node() -> None:
    report = residual_cnn(2)
    assert report.graphs is not None
    said = section(report, "graphs")
    for caption, nodes in (("int8 graph", report.graphs.int8_nodes), ("float graph", report.graphs.float_nodes)):
        table = rows(said, caption)
        assert list(table) == [each.name for each in nodes]
        assert table["stem_conv"][0:3] == ["call_module", "stem.conv: ConvReLU2d", table["stem_conv"][2]]


def test_the_spec_the_machine_and_the_hash_are_there() -> None:
    report = residual_cnn()
    said = section(report, "provenance")
    assert json.loads(said.one("pre").text()) == report.spec
    assert report.weights_sha256 is not None
    for told in (report.weights_sha256, "AMD EPYC 9R14", "2.13.0+cpu", "landlock+seccomp"):
        assert told in said.text()


def test_a_noisy_latency_says_so_with_cores_bounds_the_peak_and_every_int8_candidate() -> None:
    report = residual_cnn()
    measured = report.latency[0]
    several = [
        Speedup(name=name, speedup=speedup, speedup_ci95=(speedup - 0.03, speedup + 0.03), significant=speedup > 1.1)
        for name, speedup in (("int8_torch", 2.31), ("int8_openvino", 1.02))
    ]
    report.latency[0] = measured.model_copy(
        update={
            "noisy": True,
            "note": "Noisy: Other processes had 40 % of the cores' time.",
            "cores": [3, 5],
            "roofline": Roofline(reached_gmacs_per_second=21.0, peak_gmacs_per_second=210.0, share=0.1),
            "speedups": several,
            "candidates": [each.model_copy(update={"p99_bound_ms": 77.7}) for each in measured.candidates],
        }
    )
    latency = plain(section(report, "latency"))
    for told in ("Other processes had 40 %", "3, 5", "10.0 %", "77.7", "OpenVINO int8", "no significant difference"):
        assert told in latency
    assert "noisy" in plain(section(report, "verdict"))
    assert "measure again before you rely" in plain(section(report, "advice"))
    assert "measure again" not in plain(section(residual_cnn(), "advice"))


def test_layers_stand_by_what_changed_most_with_bars_for_float_and_int8() -> None:
    report = every_runtime()
    first = report.layer_times[0]
    said = section(report, "layer-times")
    assert first.conclusion in plain(said)
    assert first.method in plain(said)
    shown = rows(said, "Time by layer, OpenVINO int8")
    by_change = sorted(first.layers, key=lambda each: -abs(each.int8_ms - each.float_ms))
    assert [name.split(" with ")[0] for name in shown] == [each.layer for each in by_change]
    [stem] = [cells for name, cells in shown.items() if name == "stem.conv"]
    assert stem[0] == "int8"
    assert stem[-1] == "slower"
    longest = max(max(each.float_ms, each.int8_ms) for each in first.layers)
    [table] = [each for each in said.all("table") if each.one("caption").text() == "Time by layer, OpenVINO int8"]
    widths = [float(each["width"]) for each in table.all("rect")]
    wanted = [150 * value / longest for each in by_change for value in (each.float_ms, each.int8_ms)]
    assert all(abs(found - want) <= 0.1 for found, want in zip(widths, wanted, strict=True))


def test_what_boundaries_cost_is_told_with_its_places_the_costliest_first() -> None:
    said = section(every_runtime(), "layer-times")
    first = next(each for each in said.all("table") if each.one("caption").text() == "Boundaries by time")
    places = [[cell.text() for cell in row.all("th", "td")] for row in first.one("tbody").all("tr")]
    assert places == [
        ["layer4.0.add", "gate.softplus", "dequantize", "0.0210"],
        ["input", "stem.conv", "quantize", "0.0110"],
    ]
    assert "Together 0.0320 ms of 2.80 ms. The float model reorders as well, for 0.00400 ms." in plain(said)


def test_other_artifacts_are_timed_on_demand() -> None:
    said = section(every_runtime(), "layer-times")
    assert "The same as ONNX Runtime int8" in [each.text() for each in said.all("summary")]


def test_load_time_and_memory_of_each_file_stand_below_the_files() -> None:
    shown = rows(section(every_runtime(), "artifacts"), "Load time and memory")
    assert shown["model_int8.pt"] == ["412", "38.5", "22.8 MB", "34.2 MB"]
    assert set(shown) == {"model_int8.pt", "model_int8.onnx", "model_int8.openvino.onnx"}


def test_energy_stands_where_there_is_a_value() -> None:
    report = residual_cnn()
    without = section(report, "latency").text()
    first = report.latency[0]
    counted = [each.model_copy(update={"energy_joules": 0.0123}) for each in first.candidates]
    told = first.model_copy(update={"candidates": counted, "energy": "RAPL counts all of the CPU's packages."})
    with_energy = section(report.model_copy(update={"latency": [told, *report.latency[1:]]}), "latency").text()
    assert "Energy" not in without
    assert "Energy, mJ" in with_energy
    assert "12.3" in with_energy
    assert "RAPL counts all of the CPU's packages." in with_energy
