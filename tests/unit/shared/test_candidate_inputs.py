"""Which input of one candidate is fed like which of another: by name or else by position, without searching."""

from __future__ import annotations

import pytest

from shared.candidate_inputs import input_order, joined
from shared.errors import CandidatesMismatch
from shared.model_file import TensorDescription


def described(*names: str, shape: tuple[int | None, ...] = (None, 4)) -> list[TensorDescription]:
    return [TensorDescription.model_construct(name=name, shape=list(shape), dtype="float32") for name in names]


def test_inputs_go_by_name_where_the_names_are_the_same_and_else_by_position() -> None:
    assert input_order(described("a", "b", "c"), described("c", "a", "b")) == [2, 0, 1]
    assert input_order(described("a", "b", "c"), described("c", "a", "d")) == [0, 1, 2]


def test_a_size_is_fixed_where_either_fixes_it() -> None:
    found = joined(described("a", "b", shape=(None, 4, None)), described("b", "a", shape=(2, None, None)))
    assert [(each.name, each.shape) for each in found] == [("a", [2, 4, None]), ("b", [2, 4, None])]
    with pytest.raises(CandidatesMismatch, match=r"float32 \[3, 4, any\]"):
        joined(found, described("a", "b", shape=(3, 4, None)))


class Compared(str):
    """A name that counts how often it is held against another."""

    __slots__ = ()
    count = 0

    def __eq__(self, other: object) -> bool:
        Compared.count += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_the_order_of_many_inputs_is_not_searched_for() -> None:
    """A thousand names are compared a few thousand times, where a search for each would take half a million."""
    names = [f"input_{number}" for number in range(1000)]
    first, other = (described(*map(Compared, some)) for some in (names, reversed(names)))
    assert input_order(first, other) == list(reversed(range(1000)))
    assert 0 < Compared.count < 10_000
