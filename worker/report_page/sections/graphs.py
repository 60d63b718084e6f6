"""The FX graph before and after, as a picture and as tables."""

from __future__ import annotations

from shared.job_report import JobReport
from shared.layer_report import GraphNode
from worker.report_page.figures import NONE, plural
from worker.report_page.graph_drawing import MAX_BOXES, draw, shape
from worker.report_page.layout import Column, Section, folded, name, note, precision_badge, scrollable, table
from worker.report_page.markup import Content, element, join, shorten

_MAX_ROWS = 2000
_BYTES_OF_A_BOX = 600
_LEGEND = ("int8", "float32", "float16", "boundary", "other")


def graphs(report: JobReport, room: int) -> Section | None:
    """The int8 graph drawn with its precisions, and both graphs node by node."""
    both = report.graphs
    if both is None or not (both.float_nodes or both.int8_nodes):
        return None
    parts = [
        _picture(both.int8_nodes or both.float_nodes, room),
        _node_table("int8 graph, after", both.int8_nodes, room),
        _node_table("float graph, before", both.float_nodes, room),
    ]
    return Section("graphs", "FX graph", join(parts))


def _picture(nodes: list[GraphNode], room: int) -> Content:
    picture = draw(nodes, min(MAX_BOXES, room // _BYTES_OF_A_BOX))
    if picture is None:
        return None
    there = {each.precision for each in nodes}
    legend = [precision_badge(each) for each in _LEGEND if each in there]
    told: list[Content] = ["From top to bottom, each box a node with its layer, operator and precision. "]
    if picture.left_out:
        told.append(f"Left out: {'; '.join(picture.left_out)}.")
    drawing = scrollable("Picture of the graph", picture.drawing, class_="scroll tall")
    on_paper = None if picture.fits_on_paper else "The picture is too tall for paper; the tables hold the same."
    return join(
        [
            note(*told),
            element("p", legend, class_="legend"),
            element(
                "div",
                drawing,
                class_="picture" if picture.fits_on_paper else "picture screen-only",
                data_find="layer, node or operator",
            ),
            element("p", on_paper, class_="note paper-only") if on_paper else None,
        ]
    )


def _node_table(title: str, nodes: list[GraphNode], room: int) -> Content:
    if not nodes:
        return None
    columns = [Column("Name"), Column("Opcode"), Column("Target"), Column("Arguments")]
    columns += [Column("Layer"), Column("Precision"), Column("Shape")]
    rows: list[list[Content]] = [
        [
            name(each.name, 60),
            each.op,
            shorten(each.target, 80),
            shorten(each.args, 100) or NONE,
            NONE if each.layer is None else shorten(each.layer, 80),
            precision_badge(each.precision),
            NONE if each.shape is None else shape(each),
        ]
        for each in nodes[:_MAX_ROWS]
    ]
    caption, found = f"{title}, node by node", "layer, node, target or precision"
    written = table(caption, columns, rows, find=found, tall=True, room=room, of=len(nodes), noun="node")
    return folded(f"Table of the {title}: {plural(len(nodes), 'node')}", written)
