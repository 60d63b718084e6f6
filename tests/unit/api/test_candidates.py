"""Candidates of a benchmark are brought together in one pass."""

from __future__ import annotations

from typing import Any

import pytest

from api.jobs.candidates import _together
from shared import candidate_inputs
from shared.errors import CandidatesMismatch
from shared.model_file import TensorDescription


def taken(shape: list[int | None], inputs: int = 10) -> list[TensorDescription]:
    return [TensorDescription(name=f"x{number}", shape=shape, dtype="float32") for number in range(inputs)]


def test_every_candidate_is_held_against_those_before_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    fits = candidate_inputs._fits

    def counted(known: TensorDescription, other: TensorDescription) -> bool:
        nonlocal compared
        compared += 1
        return fits(known, other)

    monkeypatch.setattr(candidate_inputs, "_fits", counted)
    assert _together([taken([None, 4]), *[taken([2, None])] * 7]) == taken([2, 4])
    assert compared == 7 * 10


def test_the_first_that_does_not_fit_is_pointed_at() -> None:
    shapes: list[Any] = [[None, None], [1, None], [None, 4], [2, 4]]
    with pytest.raises(CandidatesMismatch) as caught:
        _together([taken(shape) for shape in shapes])
    assert [each.pointer for each in caught.value.errors] == ["/candidates/3"]
