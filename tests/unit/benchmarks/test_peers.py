"""What peers.py compares with what, and which of everything it times for long."""

from __future__ import annotations

from typing import Any

import numpy as np
import peers
import peers_timing


def unused() -> peers_timing.Runnable:
    """What opens a file, where none is opened."""
    raise NotImplementedError


def taking(medians_ms: dict[str, float]) -> dict[str, Any]:
    return {name: np.full(10, ms) for name, ms in medians_ms.items()}


def test_what_cannot_be_the_fastest_of_its_kind_is_timed_no_further() -> None:
    medians_ms = {
        "octavo torch": 9.0, "octavo onnxruntime": 2.0, "octavo openvino f32": 3.0, "octavo openvino bf16": 2.0,
        "onnxruntime QUInt8": 2.0, "onnxruntime QInt8": 4.0, "nncf mixed f32": 1.5, "float eager": 8.0,
        "float openvino bf16": 1.9,
    }  # fmt: skip
    entries = [peers_timing.Entry(name.partition(" ")[0], name, unused) for name in medians_ms]
    assert peers_timing.near_the_fastest(entries, taking(medians_ms)) == [
        "octavo torch", "octavo onnxruntime", "octavo openvino bf16", "onnxruntime QUInt8", "nncf mixed f32",
        "float openvino bf16",
    ]  # fmt: skip


def test_what_is_mostly_noise_is_no_competitor_and_octavo_offers_nothing_that_loses_more_than_its_torch_artifact() -> (
    None
):
    quality = {
        "octavo torch": 30.0, "octavo onnxruntime": 29.5, "octavo openvino f32": 28.5, "nncf mixed f32": 7.0,
        "nncf performance f32": -9.0, "onnxruntime QInt8": "it raised",
    }  # fmt: skip
    entries = [peers_timing.Entry(name.partition(" ")[0], name, unused) for name in quality]
    assert [each.name for each in peers_timing.right_ones(entries, quality)] == [*quality][:4]
    assert peers_timing.offered_by_octavo(entries, quality) == ["octavo torch", "octavo onnxruntime"]
    in_bf16 = [peers_timing.Entry("octavo", "octavo openvino bf16", unused)]
    for db, offered in ((21.0, ["octavo openvino bf16"]), (19.0, [])):
        assert peers_timing.offered_by_octavo(in_bf16, quality | {"octavo openvino bf16": db}) == offered


def test_octavos_file_for_openvino_counts_in_the_precision_that_a_job_would_choose() -> None:
    offered = ["octavo torch", "octavo openvino f32", "octavo openvino bf16"]
    for in_bf16, chosen in ((0.99, "f32"), (0.9, "bf16")):
        medians_ms = {"octavo openvino f32": 1.0, "octavo openvino bf16": in_bf16}
        assert peers.in_one_precision(offered, medians_ms) == {"octavo torch", f"octavo openvino {chosen}"}
    assert peers.in_one_precision(offered[:2], {}) == {*offered[:2]}


def test_each_side_is_there_with_its_fastest() -> None:
    samples_ms = taking(
        {"octavo torch": 3.0, "octavo openvino f32": 2.0, "nncf mixed f32": 4.0, "nncf mixed bf16": 2.5, "float a": 1.0}
    )
    offered = ["octavo torch"]
    by_title = {contest.title: peers.compared(samples_ms, contest, offered) for contest in peers.CONTESTS}
    assert by_title["ONNX Runtime"] is None
    assert (by_title["NNCF"].value, by_title["NNCF"].theirs) == (0.8, "nncf mixed bf16")
    assert (by_title["all"].value, by_title["all"].ours, by_title["all"].theirs) == (3.0, "octavo torch", "float a")
