"""Which inputs the candidates of a benchmark take together: told before the job is accepted, and when it runs."""

from __future__ import annotations

from collections.abc import Sequence

from shared.dataset_file import alike
from shared.errors import CandidatesMismatch
from shared.model_file import TensorDescription


def input_order(first: Sequence[TensorDescription], other: Sequence[TensorDescription]) -> list[int]:
    """For each input of `other`, which input of the first candidate it is fed like.

    By name where the names are the same, else by position. Raises CandidatesMismatch when the kinds of numbers, the
    axes or fixed sizes differ.
    """
    if len(first) != len(other):
        raise CandidatesMismatch(f"It takes {len(other)} inputs ({_told(other)}), and the first {len(first)}.")
    places = {each.name: place for place, each in enumerate(first)}
    if {each.name for each in other} == set(places):
        order = [places[each.name] for each in other]
    else:
        order = list(range(len(first)))
    for place, each in zip(order, other, strict=True):
        if not _fits(first[place], each):
            raise CandidatesMismatch(
                f"Its input {each.name!r} is {_told([each])}; the first candidate's is {_told([first[place]])}."
            )
    return order


def joined(known: Sequence[TensorDescription], other: Sequence[TensorDescription]) -> list[TensorDescription]:
    """What both take, as the first one names it: a size is fixed where either fixes it.

    Raises CandidatesMismatch when they contradict each other.
    """
    together = list(known)
    for place, each in zip(input_order(known, other), other, strict=True):
        sizes = zip(together[place].shape, each.shape, strict=True)
        shape = [size if fixed is None else fixed for fixed, size in sizes]
        together[place] = together[place].model_copy(update={"shape": shape})
    return together


def _fits(known: TensorDescription, other: TensorDescription) -> bool:
    return (
        len(known.shape) == len(other.shape)
        and alike(known.dtype, other.dtype)
        and all(None in pair or pair[0] == pair[1] for pair in zip(known.shape, other.shape, strict=True))
    )


def _told(inputs: Sequence[TensorDescription]) -> str:
    return ", ".join(
        f"{each.dtype} [{', '.join('any' if size is None else str(size) for size in each.shape)}]" for each in inputs
    )
