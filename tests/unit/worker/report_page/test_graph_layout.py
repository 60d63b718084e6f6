"""Graphs are laid out from top to bottom, and no edge runs through a box."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from worker.report_page.graph_drawing import _BOX_HEIGHT, _BOX_WIDTH, _corner, _path
from worker.report_page.graph_layout import Edge, Layout, Place, contract, lay_out

RESIDUAL = {"x": [], "conv1": ["x"], "conv2": ["conv1"], "add": ["conv2", "x"], "relu": ["add"]}


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    """Acyclic graphs in topological order, of up to 24 nodes and three inputs a node."""
    count = draw(st.integers(1, 24))
    return {
        str(node): [str(each) for each in draw(st.lists(st.integers(0, node - 1), max_size=3))] if node else []
        for node in range(count)
    }


def test_a_chain_is_one_column() -> None:
    layout = lay_out({"a": [], "b": ["a"], "c": ["b"]})
    assert layout.places == {"a": Place(0, 0), "b": Place(1, 0), "c": Place(2, 0)}
    assert (layout.columns, layout.ranks, layout.lanes) == (1, 3, 0)


def test_the_shortcut_of_a_residual_block_takes_a_lane() -> None:
    layout = lay_out(RESIDUAL)
    assert {each for each in layout.edges if each.lane is not None} == {Edge("x", "add", 0)}
    assert layout.columns == 1


def test_branches_stand_side_by_side_and_come_down_in_their_own_column() -> None:
    layout = lay_out({"x": [], "a": ["x"], "b": ["a"], "short": ["x"], "add": ["b", "short"]})
    assert layout.places["short"] == Place(1, 1)
    assert layout.lanes == 0


def test_blocks_that_follow_each_other_use_the_same_lane() -> None:
    twice = RESIDUAL | {"conv3": ["relu"], "conv4": ["conv3"], "add2": ["conv4", "relu"]}
    assert lay_out(twice).lanes == 1


@given(graphs())
def test_every_box_is_below_its_inputs_and_alone_in_its_place(graph: dict[str, list[str]]) -> None:
    layout = lay_out(graph)
    assert len(set(layout.places.values())) == len(graph)
    assert all(layout.places[each.source].rank < layout.places[each.target].rank for each in layout.edges)
    assert {(each.source, each.target) for each in layout.edges} == {
        (source, target) for target, sources in graph.items() for source in sources
    }


@given(graphs())
def test_no_edge_runs_through_a_box(graph: dict[str, list[str]]) -> None:
    layout = lay_out(graph)
    right = max(_corner(each)[0] for each in layout.places.values()) + _BOX_WIDTH + 20
    for edge in layout.edges:
        for (x1, y1), (x2, y2) in segments(edge, layout, right):
            for place in layout.places.values():
                left, top = _corner(place)
                across = max(x1, x2) > left and min(x1, x2) < left + _BOX_WIDTH
                assert not (across and max(y1, y2) > top and min(y1, y2) < top + _BOX_HEIGHT)


@given(graphs())
def test_edges_that_share_a_lane_never_overlap_there(graph: dict[str, list[str]]) -> None:
    layout = lay_out(graph)
    spans: dict[tuple[int, str], tuple[int, int]] = {}
    for edge in layout.edges:
        if edge.lane is not None:
            end = layout.places[edge.target].rank
            start, so_far = spans.get((edge.lane, edge.source), (layout.places[edge.source].rank, end))
            spans[edge.lane, edge.source] = (start, max(end, so_far))
    for (lane, source), (start, end) in spans.items():
        others = [span for (other, name), span in spans.items() if other == lane and name != source]
        assert all(end <= other_start or other_end <= start for other_start, other_end in others)


def test_inputs_that_are_no_earlier_node_are_no_edges() -> None:
    """A report may come from anywhere: a cycle or a name that is not there must not hang the page."""
    layout = lay_out({"a": ["b", "nowhere", "a"], "b": ["a", "a"]})
    assert [(each.source, each.target) for each in layout.edges] == [("a", "b")]


@given(graphs(), st.integers(1, 5))
def test_runs_hold_every_node_once_and_make_no_cycle(graph: dict[str, list[str]], longest: int) -> None:
    kinds = {name: "even" if int(name) % 4 < 2 else "odd" for name in graph}
    runs = contract(graph, kinds, longest)
    assert sorted(member for members in runs.values() for member in members) == sorted(graph)
    assert all(len(members) <= longest and len({kinds[each] for each in members}) == 1 for members in runs.values())
    for first, members in runs.items():
        assert first == members[0]
        assert all(set(graph[member]) == {before} for before, member in pairwise(members))
    # Merged, the runs still are in topological order: what a run reads comes from runs that began before it.
    run_of = {member: first for first, members in runs.items() for member in members}
    order = {first: index for index, first in enumerate(runs)}
    assert all(order[run_of[source]] < order[first] for first in runs for source in graph[first])


def segments(edge: Edge, layout: Layout, right: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The straight parts of an edge's path."""
    points: list[tuple[int, int]] = []
    for command, first, second in re.findall(r"([MVH])(\d+)(?: (\d+))?", _path(edge, layout, right)):
        x, y = points[-1] if points else (0, 0)
        points.append(
            (int(first), int(second)) if command == "M" else (x, int(first)) if command == "V" else (int(first), y)
        )
    return list(pairwise(points))
