"""Where the boxes of a graph stand: ranks by longest path from top to bottom, columns, and lanes for long edges.

A node goes below all of its inputs, into the free column nearest to its first input's. An edge goes down in the column
of its source; where a box stands in its way it takes a lane at the right, shared by all such edges of its source, as on
a circuit board. Equal graphs, equal drawings.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where a box stands: `rank` from the top, `column` from the left."""

    rank: int
    column: int


@dataclass(frozen=True)
class Edge:
    """From a box to one below; `lane` is None where no box stands in its way."""

    source: str
    target: str
    lane: int | None


@dataclass(frozen=True)
class Layout:
    """The places of all boxes, and how their edges run."""

    places: Mapping[str, Place]
    edges: Sequence[Edge]
    ranks: int
    columns: int
    lanes: int


def lay_out(inputs: Mapping[str, Sequence[str]]) -> Layout:
    """Place the nodes of an acyclic graph, given in topological order with their inputs.

    An input that is not an earlier node is no edge: a report may come from anywhere.
    """
    known = _earlier_only(inputs)
    places = _places(known)
    pairs = [(source, target) for target, sources in known.items() for source in sources]
    blocked = _blocked(pairs, places)
    lanes = _lanes(blocked, places)
    edges = [Edge(source, target, lanes[source] if (source, target) in blocked else None) for source, target in pairs]
    return Layout(
        places=places,
        edges=edges,
        ranks=1 + max((each.rank for each in places.values()), default=-1),
        columns=1 + max((each.column for each in places.values()), default=-1),
        lanes=1 + max(lanes.values(), default=-1),
    )


def contract(inputs: Mapping[str, Sequence[str]], kinds: Mapping[str, str], longest: int) -> dict[str, list[str]]:
    """Runs of at most `longest` nodes of one kind, each the only input of the next and read by nobody else.

    Returns the members of each run by its first node. Merging them makes no cycle.
    """
    known = _earlier_only(inputs)
    readers: dict[str, int] = dict.fromkeys(known, 0)
    for sources in known.values():
        for source in sources:
            readers[source] += 1
    run_of: dict[str, str] = {}
    runs: dict[str, list[str]] = {}
    for node, sources in known.items():
        only = sources[0] if len(sources) == 1 else None
        if only is not None and readers[only] == 1 and kinds[only] == kinds[node] and len(runs[run_of[only]]) < longest:
            run_of[node] = run_of[only]
        else:
            run_of[node] = node
        runs.setdefault(run_of[node], []).append(node)
    return runs


def _earlier_only(inputs: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    known: dict[str, list[str]] = {}
    for node, sources in inputs.items():
        known[node] = [source for source in dict.fromkeys(sources) if source in known]
    return known


def _places(inputs: Mapping[str, Sequence[str]]) -> dict[str, Place]:
    places: dict[str, Place] = {}
    taken: dict[int, set[int]] = {}
    for node, sources in inputs.items():
        rank = 1 + max((places[source].rank for source in sources), default=-1)
        wished = places[sources[0]].column if sources else 0
        columns = taken.setdefault(rank, set())
        column = _nearest_free(wished, columns)
        columns.add(column)
        places[node] = Place(rank, column)
    return places


def _nearest_free(wished: int, taken: set[int]) -> int:
    """The free column nearest to the one wished for, the right one of two."""
    distance = 0
    while True:
        for column in (wished + distance, wished - distance):
            if column >= 0 and column not in taken:
                return column
        distance += 1


def _blocked(pairs: Sequence[tuple[str, str]], places: Mapping[str, Place]) -> set[tuple[str, str]]:
    """The edges that cannot go straight down to the rank above their target: a box stands in their column."""
    ranks_in: dict[int, list[int]] = {}
    for place in places.values():
        ranks_in.setdefault(place.column, []).append(place.rank)
    for ranks in ranks_in.values():
        ranks.sort()
    return {(source, target) for source, target in pairs if _between(ranks_in, places[source], places[target].rank)}


def _between(ranks_in: Mapping[int, Sequence[int]], place: Place, end: int) -> bool:
    ranks = ranks_in[place.column]
    following = bisect_right(ranks, place.rank)
    return following < len(ranks) and ranks[following] < end


def _lanes(blocked: set[tuple[str, str]], places: Mapping[str, Place]) -> dict[str, int]:
    """A lane for each source of a blocked edge; sources share one where they do not meet."""
    ends: dict[str, int] = {}
    for source, target in blocked:
        ends[source] = max(ends.get(source, 0), places[target].rank)
    free_from: list[int] = []
    lanes: dict[str, int] = {}
    for source in sorted(ends, key=lambda each: (places[each].rank, places[each].column)):
        start = places[source].rank
        lane = next((index for index, rank in enumerate(free_from) if rank <= start), len(free_from))
        free_from[lane : lane + 1] = [ends[source]]
        lanes[source] = lane
    return lanes
