"""The FX graph as a picture: boxes from top to bottom, coloured by precision, grouped when there are too many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.layer_report import GraphNode
from worker.report_page.figures import plural, whole
from worker.report_page.graph_layout import Edge, Layout, Place, contract, lay_out
from worker.report_page.markup import Html, element, join, shorten

MAX_BOXES = 700
_MAX_EDGES = 3000
_LONGEST_RUNS = (1, 2, 3, 4, 6, 8, 12, 16)
_MAX_RANKS_ON_PAPER = 24

_BOX_WIDTH, _BOX_HEIGHT = 208, 36
_COLUMN_PITCH, _RANK_PITCH, _LANE_PITCH = 226, 64, 9
_MARGIN = 8
_LABEL_CHARACTERS = 27


@dataclass(frozen=True)
class Box:
    """One node, or a run of nodes that stands for them all."""

    members: Sequence[GraphNode]
    inputs: Sequence[str]

    @property
    def precision(self) -> str:
        """Of all of them."""
        return self.members[0].precision

    @property
    def label(self) -> str:
        """The layer, or the node where there is none."""
        first, last = _called(self.members[0]), _called(self.members[-1])
        if first == last:
            return shorten(first, _LABEL_CHARACTERS)
        # `layer3.1.conv1 … conv2`: what both are part of need not be said twice.
        last = last.removeprefix(f"{first.rpartition('.')[0]}.")
        return f"{shorten(first, _LABEL_CHARACTERS - 12)} … {shorten(last, 9)}"

    @property
    def operators(self) -> str:
        """What it computes."""
        if len(self.members) > 1:
            return plural(len(self.members), "node")
        return shorten(operator(self.members[0]), 22)

    @property
    def told(self) -> str:
        """All there is to know, to be shown on hover and searched."""
        if len(self.members) > 1:
            names = dict.fromkeys(_called(each) for each in self.members)
            return shorten(f"{len(self.members)} nodes, {self.precision}: {', '.join(names)}", 900)
        node = self.members[0]
        layer = f" of {node.layer}" if node.layer and node.layer != node.name else ""
        return shorten(f"{node.name}{layer}: {operator(node)}, {node.precision}, {shape(node)}", 300)


@dataclass(frozen=True)
class Picture:
    """The drawing, and what it leaves out."""

    drawing: Html
    left_out: Sequence[str]
    fits_on_paper: bool


def operator(node: GraphNode) -> str:
    """The module's type, or the function that is called."""
    return node.op if node.op in {"placeholder", "output"} else node.target.rpartition(": ")[2]


def shape(node: GraphNode) -> str:
    """`N × 64 × 56 × 56`, where N varies with the batch."""
    if node.shape is None:
        return "shape unknown"
    return " × ".join("N" if size is None else str(size) for size in node.shape) or "scalar"


def draw(nodes: Sequence[GraphNode], max_boxes: int = MAX_BOXES) -> Picture | None:
    """The graph without its constants; None when nothing is left to draw."""
    drawn = {each.name: each for each in nodes if each.op != "get_attr"}
    if not drawn:
        return None
    left_out = [] if len(drawn) == len(nodes) else [f"{plural(len(nodes) - len(drawn), 'constant')} (get_attr)"]
    boxes, longest = _boxes(drawn, max_boxes)
    if longest > 1:
        left_out.append(f"single nodes: runs of up to {longest} of one precision stand in one box")
    if len(boxes) > max_boxes:
        left_out.append(f"all but the first {max_boxes} of {whole(len(boxes))} boxes")
        boxes = dict(list(boxes.items())[:max_boxes])
    layout = lay_out({name: box.inputs for name, box in boxes.items()})
    most_edges = _MAX_EDGES * max_boxes // MAX_BOXES
    if len(layout.edges) > most_edges:
        left_out.append(f"all but the first {whole(most_edges)} of {whole(len(layout.edges))} edges")
    return Picture(_svg(boxes, layout, most_edges), left_out, layout.ranks <= _MAX_RANKS_ON_PAPER)


def _boxes(nodes: dict[str, GraphNode], max_boxes: int) -> tuple[dict[str, Box], int]:
    """As few nodes in a box as it takes to have no more than so many, and how many those are."""
    inputs = {name: [each for each in node.inputs if each in nodes] for name, node in nodes.items()}
    kinds = {name: node.precision for name, node in nodes.items()}
    for longest in _LONGEST_RUNS:
        runs = contract(inputs, kinds, longest)
        if len(runs) <= max_boxes:
            break
    first_of = {member: first for first, members in runs.items() for member in members}
    boxes = {
        first: Box([nodes[each] for each in members], [first_of[each] for each in inputs[first]])
        for first, members in runs.items()
    }
    return boxes, longest


def _svg(boxes: dict[str, Box], layout: Layout, most_edges: int) -> Html:
    width = 2 * _MARGIN + (layout.columns - 1) * _COLUMN_PITCH + _BOX_WIDTH + (layout.lanes + 2) * _LANE_PITCH
    height = 2 * _MARGIN + (layout.ranks - 1) * _RANK_PITCH + _BOX_HEIGHT
    tip = element(
        "marker",
        element("path", d="M0 0L6 3L0 6Z"),
        id="tip",
        viewBox="0 0 6 6",
        refX=6,
        refY=3,
        markerWidth=6,
        markerHeight=6,
        orient="auto",
    )
    return element(
        "svg",
        element("title", "The graph from top to bottom; the table below says the same in words"),
        element("defs", tip),
        element("g", _edges(layout, width, most_edges), class_="edges"),
        [_box(box, layout.places[name]) for name, box in boxes.items()],
        role="img",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
    )


def _box(box: Box, place: Place) -> Html:
    x, y = _corner(place)
    return element(
        "g",
        element("title", box.told),
        element("rect", width=_BOX_WIDTH, height=_BOX_HEIGHT, rx=4),
        element("text", box.label, x=9, y=15),
        element("text", f"{box.operators} · {box.precision}", x=9, y=29, class_="op"),
        class_=f"node p-{box.precision}",
        transform=f"translate({x} {y})",
    )


def _edges(layout: Layout, width: int, most_edges: int) -> Html:
    right = width - _MARGIN - layout.lanes * _LANE_PITCH
    return join(element("path", d=_path(each, layout, right)) for each in layout.edges[:most_edges])


def _path(edge: Edge, layout: Layout, right: int) -> str:
    """Down, across in the gap between two layers, down; by way of a lane when boxes are in between."""
    (x1, y1), (x2, y2) = (_corner(layout.places[each]) for each in (edge.source, edge.target))
    x1, y1, x2 = x1 + _BOX_WIDTH // 2, y1 + _BOX_HEIGHT, x2 + _BOX_WIDTH // 2
    if edge.lane is None:
        return f"M{x1} {y1}V{y2}" if x1 == x2 else f"M{x1} {y1}V{y2 - 12}H{x2}V{y2}"
    # Such edges leave and arrive to the right of the middle, each lane at a height of its own, so that they stay apart.
    x1, x2 = x1 + 30, x2 + 30
    lane = right + edge.lane * _LANE_PITCH
    step = edge.lane % 4 * 2
    return f"M{x1} {y1}V{y1 + 5 + step}H{lane}V{y2 - 15 + step}H{x2}V{y2}"


def _corner(place: Place) -> tuple[int, int]:
    return _MARGIN + place.column * _COLUMN_PITCH, _MARGIN + place.rank * _RANK_PITCH


def _called(node: GraphNode) -> str:
    return node.layer or node.name
