"""Everything that can be measured has a name in words."""

from __future__ import annotations

from shared.quantization_spec import RUNTIMES
from worker.candidate_names import (
    CANDIDATE_NAMES,
    FLOAT_CHANNELS_LAST,
    FLOAT_EAGER,
    FLOAT_FROZEN,
    FLOAT_OPENVINO_BF16,
    RUNTIME_NAMES,
    candidate_name,
    float_in,
    int8_in,
)


def test_every_candidate_and_every_runtime_has_a_name_of_its_own() -> None:
    others = [float_in(runtime) for runtime in RUNTIMES if runtime != "torch"]
    of_torch = [FLOAT_EAGER, FLOAT_CHANNELS_LAST, FLOAT_FROZEN]
    assert set(CANDIDATE_NAMES) == {*of_torch, *others, FLOAT_OPENVINO_BF16, *map(int8_in, RUNTIMES)}
    assert set(RUNTIME_NAMES) == set(RUNTIMES)
    assert len(set(CANDIDATE_NAMES.values())) == len(CANDIDATE_NAMES)


def test_an_unknown_candidate_keeps_the_name_that_the_report_gives_it() -> None:
    assert candidate_name("float_new") == "float_new"
