"""The picture says of each node what it is, and of itself what it leaves out."""

from __future__ import annotations

from shared.layer_report import GraphNode
from tests.unit.worker.report_page.parsed import parse
from tests.unit.worker.report_page.samples import residual_cnn
from worker.report_page.graph_drawing import MAX_BOXES, draw, shape


def node(name: str, *inputs: str, op: str = "call_function", precision: str = "int8") -> GraphNode:
    return GraphNode.model_validate(
        {"name": name, "op": op, "target": "relu", "args": "", "inputs": list(inputs), "precision": precision}
    )


def test_a_box_tells_layer_operator_and_precision_in_words_and_colour() -> None:
    report = residual_cnn(2)
    assert report.graphs is not None
    picture = draw(report.graphs.int8_nodes)
    assert picture is not None
    [box] = [each for each in parse(picture.drawing).all("g") if "layer1.0.conv1" in each.text()]
    assert [each.text() for each in box.all("text")] == ["layer1.0.conv1", "ConvReLU2d · int8"]
    assert box["class"] == "node p-int8"
    assert "N × 64 × 56 × 56" in box.one("title").text()


def test_constants_are_left_out_and_said_to_be() -> None:
    picture = draw([node("x", op="placeholder"), node("scale", op="get_attr"), node("q", "x", "scale")])
    assert picture is not None
    assert picture.left_out == ["1\u00a0constant (get_attr)"]
    assert "scale" not in picture.drawing


def test_a_long_chain_is_drawn_in_runs_that_name_all_their_nodes() -> None:
    names = ["n0", *(f"n{index}" for index in range(1, 2 * MAX_BOXES))]
    nodes = [node(name, *names[max(0, index - 1) : index]) for index, name in enumerate(names)]
    picture = draw(nodes)
    assert picture is not None
    assert picture.left_out == ["single nodes: runs of up to 2 of one precision stand in one box"]
    told = [each.text() for each in parse(picture.drawing).all("title")]
    assert all(any(f" {name}," in f"{title}," for title in told) for name in names)


def test_a_graph_that_cannot_be_merged_is_cut_short_and_says_so() -> None:
    nodes = [node(f"n{index}", precision="int8") for index in range(MAX_BOXES + 5)]
    picture = draw(nodes)
    assert picture is not None
    assert picture.left_out[-1] == f"all but the first {MAX_BOXES} of {MAX_BOXES + 5} boxes"
    assert len(parse(picture.drawing).all("rect")) == MAX_BOXES


def test_the_same_graph_gives_the_same_picture() -> None:
    graphs = residual_cnn(3).graphs
    assert graphs is not None
    assert draw(graphs.int8_nodes) == draw(graphs.int8_nodes)


def test_nothing_to_draw_is_no_picture() -> None:
    assert draw([]) is None
    assert draw([node("scale", op="get_attr")]) is None


def test_shapes_name_what_varies() -> None:
    assert shape(node("a").model_copy(update={"shape": [None, 3, 224]})) == "N × 3 × 224"
    assert shape(node("a").model_copy(update={"shape": []})) == "scalar"
    assert shape(node("a")) == "shape unknown"
