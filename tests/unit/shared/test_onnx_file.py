"""ONNX files, honest and hostile, read without the onnx package."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from torch import nn

from shared import onnx_file
from shared.errors import ModelCorrupt, ModelError, ModelUnsupported, ModelWeightsApart
from shared.model_file import ModelDescription, TensorDescription, inspect_model


def weight(name: str = "weight", values: int = 12) -> TensorProto:
    return numpy_helper.from_array(torch.arange(values, dtype=torch.float32).reshape(4, -1).numpy(), name)


def model(
    inputs: list[onnx.ValueInfoProto] | None = None,
    nodes: list[onnx.NodeProto] | None = None,
    weights: list[TensorProto] | None = None,
) -> onnx.ModelProto:
    """`y = x @ weight`, or what is given instead of its parts."""
    given_inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])] if inputs is None else inputs
    made = helper.make_model(
        helper.make_graph(
            nodes or [helper.make_node("MatMul", ["x", "weight"], ["y"])],
            "graph",
            given_inputs,
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
            [weight()] if weights is None else weights,
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
    )
    made.ir_version = 8
    return made


def inspect(tmp_path: Path, content: onnx.ModelProto | bytes) -> ModelDescription:
    path = tmp_path / "net.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return inspect_model(path)


def test_an_honest_file_is_described(tmp_path: Path) -> None:
    found = inspect(tmp_path, model())
    assert found == ModelDescription(
        format="onnx",
        inputs=[TensorDescription(name="x", shape=[None, 4], dtype="float32")],
        outputs=1,
        parameters=12,
        weight_bytes=weight().ByteSize(),
        opset=17,
    )


def test_what_torch_exports_is_described_as_the_onnx_package_reads_it(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(20, 8)
            self.rest = nn.Linear(8, 4)

        def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = self.rest(self.embedding(tokens))
            return x, x.masked_fill(~mask.unsqueeze(-1), 0.0)

    example = (torch.ones(2, 6, dtype=torch.int64), torch.ones(2, 6, dtype=torch.bool))
    shapes = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},) * 2
    program = torch.onnx.export(Net().eval(), example, dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    program.save(tmp_path / "net.onnx", external_data=False)
    found = inspect_model(tmp_path / "net.onnx")
    assert [(each.name, each.shape, each.dtype) for each in found.inputs] == [
        ("tokens", [None, None], "int64"),
        ("mask", [None, None], "bool"),
    ]
    read = onnx.load(tmp_path / "net.onnx")
    assert (found.outputs, found.opset) == (2, read.opset_import[0].version)
    assert found.parameters == sum(numpy_helper.to_array(each).size for each in read.graph.initializer)


def test_initializers_among_the_inputs_are_weights(tmp_path: Path) -> None:
    """Before IR version 4 every weight was an input too; those of no type that can be fed are no fault then."""
    old = model(
        [
            helper.make_tensor_value_info("weight", TensorProto.FLOAT, [4, 3]),
            helper.make_tensor_value_info("other", TensorProto.BFLOAT16, [4]),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4]),
        ],
        weights=[weight(), helper.make_tensor("other", TensorProto.BFLOAT16, [4], [1.0, 2.0, 3.0, 4.0])],
    )
    found = inspect(tmp_path, old)
    assert [(each.name, each.shape) for each in found.inputs] == [("x", [1, 4])]


def test_reading_needs_neither_torch_nor_onnx(tmp_path: Path) -> None:
    inspect(tmp_path, model())
    program = (
        "import sys; from pathlib import Path; from shared.model_file import inspect_model; "
        f"inspect_model(Path({str(tmp_path / 'net.onnx')!r})); "
        "print({'torch', 'numpy', 'onnx', 'google.protobuf'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_weights_are_skipped_and_not_read(tmp_path: Path) -> None:
    """64 MiB of them cost no memory, and no more time than a small file."""
    large = model(weights=[weight(), numpy_helper.from_array(torch.zeros(16 * 2**20).numpy(), "large")])
    (tmp_path / "net.onnx").write_bytes(large.SerializeToString())
    tracemalloc.start()
    try:
        found = inspect_model(tmp_path / "net.onnx")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.parameters == 12 + 16 * 2**20
    assert peak < 4 * 2**20  # of which the head of the file, by which it is told what it is, has one


# --- what is refused -------------------------------------------------------------------------------------------------


def apart(tensor: TensorProto) -> TensorProto:
    external_data_helper.set_external_data(tensor, "../../etc/passwd", 0, tensor.ByteSize())
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    return tensor


def branching(tensor: TensorProto) -> onnx.NodeProto:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["z"])],
        "branch", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, [4, 3])], [tensor],
    )  # fmt: skip
    return helper.make_node("If", ["condition"], ["y"], then_branch=inner, else_branch=inner)


def with_function(node: onnx.NodeProto) -> onnx.ModelProto:
    made = model()
    opsets = [helper.make_opsetid("", 17)]
    made.functions.append(helper.make_function("ours", "f", [], ["z"], [node], opsets))
    return made


def sparse() -> onnx.ModelProto:
    made = model()
    values, indices = weight("sparse", 4), numpy_helper.from_array(torch.arange(4).numpy(), "indices")
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [16]))
    return made


@pytest.mark.parametrize(
    "made",
    [
        lambda: model(weights=[apart(weight())]),
        lambda: model(nodes=[helper.make_node("Constant", [], ["y"], value=apart(weight()))]),
        lambda: model(nodes=[branching(apart(weight("inner")))]),
        lambda: with_function(helper.make_node("Constant", [], ["z"], value=apart(weight()))),
    ],
    ids=["initializer", "constant", "branch", "function"],
)
def test_weights_in_another_file_are_refused_wherever_they_are_named(
    tmp_path: Path, made: Callable[[], onnx.ModelProto]
) -> None:
    with pytest.raises(ModelWeightsApart) as caught:
        inspect(tmp_path, made())
    assert caught.value.code == "model_weights_apart"
    assert "one file" in str(caught.value.hint)


def of_type(kind: onnx.TypeProto) -> onnx.ModelProto:
    return model([helper.make_value_info("x", kind)])


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (
            lambda: of_type(helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [1]))),
            "The input 'x' is a sequence",
        ),
        (
            lambda: of_type(helper.make_optional_type_proto(helper.make_tensor_type_proto(1, [1]))),
            "The input 'x' is an optional value",
        ),
        (lambda: of_type(helper.make_tensor_type_proto(TensorProto.STRING, [1])), "The input 'x' takes string;"),
        (lambda: of_type(helper.make_tensor_type_proto(TensorProto.FLOAT8E4M3FN, [1])), "elements of the type 17"),
        (lambda: of_type(helper.make_tensor_type_proto(1, None)), "how many axes the input 'x' has"),
        (lambda: of_type(onnx.TypeProto()), "The input 'x' is of no type"),
        (lambda: model([]), "takes no tensor"),
        (sparse, "sparse weights"),
        (
            lambda: model([helper.make_tensor_value_info("x\x1b[2J", 1, [1])]),
            "name of an input must be 1 to 200 printable characters",
        ),
        (lambda: model([helper.make_tensor_value_info("x" * 201, 1, [1])]), "must be 1 to 200"),
    ],
)
def test_inputs_that_cannot_be_fed_are_named(tmp_path: Path, made: Callable[[], onnx.ModelProto], told: str) -> None:
    with pytest.raises(ModelUnsupported, match=re.escape(told)) as caught:
        inspect(tmp_path, made())
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize("size", [0, -1, -(2**63)])
def test_a_size_that_nothing_can_be_fed_to_is_named(tmp_path: Path, size: int) -> None:
    with pytest.raises(ModelUnsupported, match=f"'x' has the size {size} on axis 1: nothing can be fed") as caught:
        inspect(tmp_path, model([helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, size])]))
    assert "left open" in str(caught.value.hint)


def test_an_empty_initializer_among_the_inputs_is_no_fault(tmp_path: Path) -> None:
    """Such as the regions of a Resize that has none, before IR version 4."""
    old = model(
        [
            helper.make_tensor_value_info("roi", TensorProto.FLOAT, [0]),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4]),
        ],
        weights=[weight(), helper.make_tensor("roi", TensorProto.FLOAT, [0], [])],
    )
    assert [each.name for each in inspect(tmp_path, old).inputs] == ["x"]


def test_a_thousand_inputs_are_read_beside_any_number_of_initializers(tmp_path: Path) -> None:
    weights = [helper.make_tensor(f"w{number}", TensorProto.FLOAT, [1], [1.0]) for number in range(1500)]
    taken = [helper.make_tensor_value_info(f"x{number}", TensorProto.FLOAT, [1] * 10) for number in range(1000)]
    listed = [helper.make_tensor_value_info(each.name, TensorProto.FLOAT, [1]) for each in weights]
    assert len(inspect(tmp_path, model([*listed, *taken], weights=weights)).inputs) == 1000
    more = helper.make_tensor_value_info("more", TensorProto.FLOAT, [])
    with pytest.raises(ModelUnsupported, match="more than 1000 inputs") as caught:
        inspect(tmp_path, model([*listed, *taken, more], weights=weights))
    assert caught.value.hint


def test_the_axes_of_all_inputs_are_counted_together(tmp_path: Path) -> None:
    taken = [helper.make_tensor_value_info(f"x{number}", TensorProto.FLOAT, [1] * 50) for number in range(200)]
    assert len(inspect(tmp_path, model(taken)).inputs) == 200
    more = helper.make_tensor_value_info("more", TensorProto.FLOAT, [1])
    with pytest.raises(ModelUnsupported, match="more than 10000 axes"):
        inspect(tmp_path, model([*taken, more]))


def varint(value: int) -> bytes:
    groups = []
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


HEAD = b"\x08\x08"  # the IR version
OPSET = message(8, number(2, 17))
X, Y = (message(1, name) + message(2, message(1, number(1, 1) + message(2, b""))) for name in (b"x", b"y"))


def whole(*, tensor: bytes = b"", inputs: bytes = X, outputs: bytes = Y, opset: bytes = OPSET) -> bytes:
    """A file of these fields; of the tensor named `w`, and of no node."""
    tensor = message(5, tensor + message(8, b"w")) if tensor else b""
    return HEAD + message(7, tensor + message(11, inputs) + message(12, outputs)) + opset


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (HEAD + message(7, b"")[:1] + varint(1000) + b"x", "longer than what it lies in"),
        (HEAD + message(7, b"\x0b\x0c"), "no protobuf field"),  # a group
        (HEAD + message(7, b"\x0f"), "no protobuf field"),
        (HEAD + message(7, b"\x00\x00"), "longer than what it lies in"),  # field 0
        (HEAD + b"\x12\x00" + b"\xff" * 20, "does not end"),
        (HEAD + message(7, b"") + message(7, b""), "two graphs"),
        (HEAD + message(2, b"pytorch"), "no graph"),
        (HEAD + message(7, message(11, message(1, b"\xff\xfe"))), "not UTF-8"),
        (HEAD + message(7, message(5, b"\x08" + varint(2**62) + b"\x08" + varint(2**62))), "a shape that cannot be"),
        (HEAD + message(7, message(5, b"\x08" + varint(2**64 - 1))), "a shape that cannot be"),
        (HEAD + message(7, message(5, b"\x08" + varint(2**40))), "not as long as its shape"),
        (HEAD + message(7, message(5, message(1, b"\x80"))), "cut off|does not end|truncated"),
    ],
)
def test_a_damaged_file_is_told_to_be_damaged(tmp_path: Path, content: bytes, told: str) -> None:
    with pytest.raises(ModelCorrupt, match=told) as caught:
        inspect(tmp_path, content)
    assert caught.value.code == "model_corrupt"


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    """But for the loss of the last field as a whole: that is a file like any other."""
    whole = model().SerializeToString()
    last = message(8, helper.make_opsetid("com.microsoft", 1).SerializeToString())
    assert whole.endswith(last)
    for length in range(3, len(whole) - len(last)):
        with pytest.raises(ModelError):
            inspect(tmp_path, whole[:length])


def test_a_file_of_nothing_but_small_fields_is_given_up_and_costs_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tenth of the limit, for tracemalloc makes it slow; fields that are kept would take eight megabytes."""
    monkeypatch.setattr(onnx_file, "_MAX_FIELDS", 200_000)
    (tmp_path / "net.onnx").write_bytes(HEAD + message(7, b"\x1a\x00" * 300_000))
    tracemalloc.start()
    try:
        with pytest.raises(ModelUnsupported, match="more than 200000 entries"):
            inspect_model(tmp_path / "net.onnx")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * 2**20


def test_graphs_nested_without_end_are_refused(tmp_path: Path) -> None:
    nested = b""
    for _ in range(100):
        nested = message(1, message(5, message(6, nested)))
    with pytest.raises(ModelUnsupported, match="levels deep"):
        inspect(tmp_path, HEAD + message(7, nested))


# --- what protobuf reads otherwise than it looks ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "hidden",
    [
        number(14, 2**32 + 1),
        number(14, 2**63 + 1),
        varint(14 << 3) + b"\x81" + b"\x80" * 8 + b"\x02",  # 2**64 + 1
        message(13, b""),
    ],
)
def test_a_place_of_the_data_is_seen_as_protobuf_sees_it(tmp_path: Path, hidden: bytes) -> None:
    content = whole(tensor=number(1, 4) + number(2, 1) + hidden)
    read = onnx.load_model_from_string(content).graph.initializer[0]
    assert read.data_location == TensorProto.EXTERNAL or read.external_data
    with pytest.raises(ModelWeightsApart):
        inspect(tmp_path, content)


@pytest.mark.parametrize("key", [2**32 | 13 << 3 | 2, 2**34 | 13 << 3 | 2, 2**63 | 13 << 3 | 2])
def test_a_key_of_more_than_32_bits_hides_no_field(tmp_path: Path, key: int) -> None:
    """The protobuf of C++ drops what is above them."""
    with pytest.raises(ModelCorrupt, match="no protobuf field"):
        inspect(tmp_path, whole(tensor=number(2, 1) + varint(key) + varint(2) + b"\x0a\x00"))


def test_types_and_sizes_are_cut_as_protobuf_cuts_them(tmp_path: Path) -> None:
    size = varint(1 << 3) + b"\x83" + b"\x80" * 8 + b"\x02"  # 2**64 + 3
    taken = message(2, message(1, number(1, 2**32 + 7) + message(2, message(1, size))))
    content = whole(inputs=message(1, b"x") + taken)
    read = onnx.load_model_from_string(content).graph.input[0].type.tensor_type
    assert (read.elem_type, read.shape.dim[0].dim_value) == (TensorProto.INT64, 3)
    assert inspect(tmp_path, content).inputs == [TensorDescription(name="x", shape=[3], dtype="int64")]
    with pytest.raises(ModelCorrupt, match="not as long as its shape"):
        inspect(tmp_path, whole(tensor=number(1, 4) + number(2, 2**32 + 1) + message(9, b"four")))


def test_a_field_of_another_kind_than_it_should_be_of_is_skipped(tmp_path: Path) -> None:
    """A size of 8 bytes would make a tensor of any size look empty."""
    fixed = varint(1 << 3 | 1) + bytes(8)
    content = whole(tensor=number(1, 2**40) + fixed + number(2, 1))
    assert list(onnx.load_model_from_string(content).graph.initializer[0].dims) == [2**40]
    with pytest.raises(ModelCorrupt, match="not as long as its shape"):
        inspect(tmp_path, content)


# --- what would cost much --------------------------------------------------------------------------------------------


def test_of_many_names_only_the_last_is_decoded(tmp_path: Path) -> None:
    long = message(1, "\U0001f600".encode() + b"a" * 2**20) * 32
    (tmp_path / "net.onnx").write_bytes(whole(inputs=long + X, outputs=long + Y))
    tracemalloc.start()
    try:
        assert [each.name for each in inspect_model(tmp_path / "net.onnx").inputs] == ["x"]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20


@pytest.mark.parametrize("part", ["inputs", "outputs", "opset"])
def test_a_name_too_long_is_refused_before_it_is_decoded(tmp_path: Path, part: str) -> None:

    def named(size: int) -> bytes:
        name = message(1, b"\xff" * size)  # no UTF-8
        return whole(**{part: message(8, name) if part == "opset" else name})

    with pytest.raises(ModelUnsupported, match="has 801 bytes; 800 are the most that are read"):
        inspect(tmp_path, named(801))
    with pytest.raises(ModelCorrupt, match="not UTF-8"):
        inspect(tmp_path, named(800))


def test_a_product_of_sizes_is_taken_once_a_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty lists of sizes cost no more than other fields, whatever stands before them."""
    products: list[int] = []
    product = math.prod

    def counted(sizes: list[int]) -> int:
        products.append(len(sizes))
        return product(sizes)

    monkeypatch.setattr(math, "prod", counted)
    inspect(tmp_path, whole(tensor=message(1, b"\x01" * 64) + message(1, b"") * 1000 + number(2, 1)))
    assert products == [64]


def test_an_empty_tensor_may_have_large_sizes_and_no_more_than_64(tmp_path: Path) -> None:
    large = varint(2**62) * 63
    assert inspect(tmp_path, whole(tensor=message(1, large + b"\x00"))).parameters == 0
    for sizes in (large, large + b"\x00" * 2):
        with pytest.raises(ModelCorrupt, match="a shape that cannot be"):
            inspect(tmp_path, whole(tensor=message(1, sizes)))


def test_packed_sizes_are_counted_as_fields_are(tmp_path: Path) -> None:
    tensors = message(5, message(1, b"\x01" * 64)) * 31_000
    with pytest.raises(ModelUnsupported, match="more than 2000000 entries"):
        inspect(tmp_path, HEAD + message(7, tensors))


FUZZED = settings(max_examples=400, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])


def told_or_read(tmp_path: Path, content: bytes) -> None:
    """Whatever it is, it is described, or refused by an error of our own."""
    try:
        found = inspect(tmp_path, content)
    except ModelError:
        return
    ModelDescription.model_validate_json(found.model_dump_json())


@FUZZED
@given(content=st.binary(max_size=300))
def test_random_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    told_or_read(tmp_path, HEAD + b"\x3a" + content)


@FUZZED
@given(changes=st.lists(st.tuples(st.integers(2, 10_000), st.integers(0, 255)), min_size=1, max_size=8))
def test_changed_bytes_are_read_or_refused(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    content = bytearray(model(nodes=[branching(weight("inner"))]).SerializeToString())
    for place, value in changes:
        content[2 + place % (len(content) - 2)] = value
    told_or_read(tmp_path, bytes(content))
