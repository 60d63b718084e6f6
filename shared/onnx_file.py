"""What an ONNX file is, read without the onnx package: its inputs and outputs, or why it cannot be measured.

An ONNX file is one protobuf message (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). It is walked once from
front to back with a buffer of 64 KiB; the values of tensors are skipped, so that a file of 2 GiB, the most that a
message may have, costs no more than a small one. What is walked is counted, because a hostile file may be nothing but
small fields: the most that are read took 1.9 s.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from shared.errors import ModelCorrupt, ModelUnsupported, ModelWeightsApart
from shared.zip_layout import Window, ZipCorrupt

MAX_BYTES = 2**31 - 1  # of any protobuf message
MAX_INPUTS = 1000  # as many as a dataset may have arrays
MAX_AXES = 10_000  # of all inputs together
_BUFFER_BYTES = 64 * 1024
_MAX_FIELDS = 2_000_000  # a network of 20 000 nodes has half a million
_MAX_NAME_BYTES = 16 * 1024**2  # of all initializers together
_MAX_SHOWN_NAME_BYTES = 800  # of an input, an output or a domain: 200 characters of 4 bytes
_MAX_TENSORS = 20_000  # inputs, which before IR version 4 the initializers are among
_MAX_DIMENSIONS = 64
_MAX_ELEMENTS = 2**63
_PACKED = 4  # elements that a byte holds at most, of the types that there are
_MAX_DEPTH = 32  # of graphs within the nodes of graphs
# As an array's name in a dataset: nothing that JSON cannot carry, PostgreSQL cannot keep, or a terminal would obey.
_NAME = re.compile("[^\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff\\u202a-\\u202e\\u2066-\\u2069]{1,200}")

_SPARSE = "The ONNX file holds sparse weights, which the runtimes do not take."
_IMPOSSIBLE_SHAPE = "A tensor in the ONNX file has a shape that cannot be."

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types; groups, 3 and 4, are in no ONNX file

# Numbers of fields, by message.
_MODEL_GRAPH, _MODEL_OPSET, _MODEL_FUNCTION = 7, 8, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE_INITIALIZER = 1, 5, 11, 12, 15
_FUNCTION_NODE, _FUNCTION_ATTRIBUTE, _NODE_ATTRIBUTE = 7, 11, 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE_TENSOR, _ATTRIBUTE_SPARSE_TENSORS = 22, 23
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 2, 8, 9, 13, 14
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR, _TYPE_KINDS = 1, {4: "a sequence", 5: "a map", 8: "a sparse tensor", 9: "an optional value"}
_TENSOR_TYPE_ELEMENT, _TENSOR_TYPE_SHAPE, _SHAPE_DIMENSION, _DIMENSION_SIZE = 1, 2, 1, 1
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2

# TensorProto.DataType: what the runtimes can be fed with, and the bytes of an element.
_DTYPES: Final = {
    1: ("float32", 4), 2: ("uint8", 1), 3: ("int8", 1), 5: ("int16", 2), 6: ("int32", 4), 7: ("int64", 8),
    9: ("bool", 1), 10: ("float16", 2), 11: ("float64", 8),
}  # fmt: skip
_OTHER_DTYPES: Final = {
    4: "uint16", 8: "string", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
}  # fmt: skip


@dataclass(frozen=True)
class OnnxInput:
    """A tensor that the model takes; None in the shape is a size that is open."""

    name: str
    shape: list[int | None]
    dtype: str


@dataclass(frozen=True)
class OnnxFile:
    """What an ONNX file says of itself."""

    inputs: list[OnnxInput]
    outputs: list[str]
    opset: int
    parameters: int
    """Elements of the initializers."""
    weight_bytes: int
    """Of the initializers, as the file holds them."""


def inspect_onnx(window: Window) -> OnnxFile:
    """Read the description; raises ModelCorrupt, ModelUnsupported or ModelWeightsApart."""
    if window.size > MAX_BYTES:
        raise ModelCorrupt(f"The ONNX file has {window.size} bytes; protobuf, which it is written in, ends at 2 GiB.")
    try:
        return _read_model(_Fields(window))
    except ZipCorrupt as error:
        raise ModelCorrupt("The ONNX file is truncated.") from error
    except UnicodeDecodeError as error:
        raise ModelCorrupt("A name in the ONNX file is not UTF-8.") from error


@dataclass(frozen=True)
class _Field:
    """A field of a message: a number, or a place in the file."""

    number: int
    value: int
    """Of a number; of bytes where they begin."""
    end: int | None = None
    """Where bytes end; None for a number."""


class _Fields:
    """Reads fields from front to back: places must be asked for in their order."""

    def __init__(self, window: Window) -> None:
        self.size = window.size
        self._window = window
        self._buffer = b""
        self._buffered_at = 0
        self._read = 0

    def of(self, start: int, end: int) -> Iterator[_Field]:
        """The fields of the message that lies there."""
        at = start
        while at < end:
            self._count()
            key, at = self._varint(at)
            if key >= 2**32:  # protobuf would drop what is above, and see a field that is not seen here
                raise ModelCorrupt("The ONNX file is damaged: it holds what is no protobuf field.")
            number, kind = key >> 3, key & 7
            found = None
            if kind == _VARINT:
                value, at = self._varint(at)
                found = _Field(number, value)
            elif kind == _BYTES:
                count, at = self._varint(at)
                found = _Field(number, at, at + count)
                at += count
            elif kind in (_FIXED32, _FIXED64):
                at += 4 if kind == _FIXED32 else 8  # no field that is read here is of these: protobuf skips it too
            else:
                raise ModelCorrupt("The ONNX file is damaged: it holds what is no protobuf field.")
            if at > end or number == 0:
                raise ModelCorrupt("The ONNX file is truncated or damaged: an entry is longer than what it lies in.")
            if found is not None:
                yield found

    def inside(self, of: _Field) -> Iterator[_Field]:
        """The fields of a message within another."""
        if of.end is None:
            raise ModelCorrupt("The ONNX file is damaged: there is a number where a message belongs.")
        return self.of(of.value, of.end)

    def text(self, of: _Field, *, limit: int = _MAX_SHOWN_NAME_BYTES) -> str:
        """A name of at most so many bytes."""
        if of.end is None:
            raise ModelCorrupt("The ONNX file is damaged: a name is none.")
        if (size := of.end - of.value) > limit:
            raise ModelUnsupported(
                f"A name in the ONNX file has {size} bytes; {limit} are the most that are read.",
                hint="Give it another when you export: torch.onnx.export takes input_names and output_names.",
            )
        return self._window.read(of.value, size).decode()

    def numbers(self, of: _Field) -> Iterator[int]:
        """One integer, or several that are packed."""
        if of.end is None:
            yield _signed(of.value)
            return
        at = of.value
        while at < of.end:
            self._count()
            value, at = self._varint(at)
            if at > of.end:
                raise ModelCorrupt("The ONNX file is damaged: a list of numbers is cut off.")
            yield _signed(value)

    def _count(self) -> None:
        self._read += 1
        if self._read > _MAX_FIELDS:
            raise ModelUnsupported(f"The ONNX file has more than {_MAX_FIELDS} entries beside its weights.")

    def _varint(self, at: int) -> tuple[int, int]:
        """The number at a place, and where the next one begins."""
        value = shift = 0
        while True:
            index = at - self._buffered_at
            if not 0 <= index < len(self._buffer):
                self._buffer = self._window.read(at, max(1, min(_BUFFER_BYTES, self.size - at)))
                self._buffered_at, index = at, 0
            byte = self._buffer[index]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
            if shift > 63:
                raise ModelCorrupt("The ONNX file is damaged: a number does not end.")


@dataclass
class _Graph:
    """What is gathered of the graph."""

    inputs: list[OnnxInput | ModelUnsupported] = field(default_factory=list)
    """An input that cannot be fed is refused only if it is no initializer."""
    names: list[str] = field(default_factory=list)
    """Of the inputs."""
    outputs: list[str] = field(default_factory=list)
    initializers: set[str] = field(default_factory=set)
    name_bytes: int = 0
    parameters: int = 0
    weight_bytes: int = 0


def _read_model(fields: _Fields) -> OnnxFile:
    graph: _Graph | None = None
    opset = 0
    for each in fields.of(0, fields.size):
        if each.number == _MODEL_GRAPH:
            if graph is not None:  # protobuf would merge the two: no writer does that
                raise ModelCorrupt("The ONNX file holds two graphs.")
            graph = _Graph()
            _read_graph(fields, each, graph, depth=0)
        elif each.number == _MODEL_OPSET:
            opset = max(opset, _read_opset(fields, each))
        elif each.number == _MODEL_FUNCTION:
            _read_function(fields, each)
    if graph is None:
        raise ModelCorrupt("The ONNX file holds no graph.")
    if opset < 1:
        raise ModelCorrupt("The ONNX file does not say which operator set it is written in.")
    return _described(graph, opset)


def _described(graph: _Graph, opset: int) -> OnnxFile:
    if len(set(graph.names)) != len(graph.names):
        raise ModelCorrupt("Two inputs in the ONNX file have the same name.")
    inputs, axes = list[OnnxInput](), 0
    for name, found in zip(graph.names, graph.inputs, strict=True):
        if name in graph.initializers:
            continue
        if isinstance(found, ModelUnsupported):
            raise found
        inputs.append(found)
        axes += len(found.shape)
        limit_inputs(len(inputs), axes)
    if not inputs:
        raise ModelUnsupported("The model takes no tensor.")
    if not graph.outputs:
        raise ModelCorrupt("The ONNX file has no outputs.")
    return OnnxFile(inputs, graph.outputs, opset, graph.parameters, graph.weight_bytes)


def limit_inputs(count: int, axes: int) -> None:
    """Refuse so many inputs, or so many axes of all together: whatever names the model later reads them all again."""
    if count > MAX_INPUTS or axes > MAX_AXES:
        raise ModelUnsupported(
            f"The model has more than {MAX_INPUTS} inputs, or more than {MAX_AXES} axes in all of them together.",
            hint="Stack inputs of the same shape into one, take them apart inside of the module, and export again.",
        )


def _read_opset(fields: _Fields, of: _Field) -> int:
    """The version of ONNX's own operators; 0 for those of others."""
    domain, version = None, 0
    for each in fields.inside(of):
        if each.number == _OPSET_DOMAIN:
            domain = each
        elif each.number == _OPSET_VERSION:
            version = _signed(each.value) if each.end is None else 0
    return version if _text_of(fields, domain) in {"", "ai.onnx"} and version < 2**31 else 0


def _read_graph(fields: _Fields, of: _Field, graph: _Graph | None, *, depth: int) -> None:
    """Gather from the graph; of one within a node only whether all of its weights are in the file."""
    if depth > _MAX_DEPTH:
        raise ModelUnsupported(f"The ONNX file nests graphs more than {_MAX_DEPTH} levels deep.")
    for each in fields.inside(of):
        if each.number == _GRAPH_NODE:
            _read_node(fields, each, depth=depth + 1)
        elif each.number == _GRAPH_INITIALIZER:
            _read_tensor(fields, each, graph)
        elif each.number == _GRAPH_SPARSE_INITIALIZER:
            raise ModelUnsupported(_SPARSE)
        elif each.number == _GRAPH_INPUT and graph is not None:
            _add_input(fields, each, graph)
        elif each.number == _GRAPH_OUTPUT and graph is not None:
            name = None
            for inner in fields.inside(each):
                if inner.number == _VALUE_NAME:
                    name = inner
            graph.outputs.append(_checked_name(_text_of(fields, name), "output"))
            _limit(len(graph.outputs))


def _read_function(fields: _Fields, of: _Field) -> None:
    for each in fields.inside(of):
        if each.number == _FUNCTION_NODE:
            _read_node(fields, each, depth=1)
        elif each.number == _FUNCTION_ATTRIBUTE:
            _read_attribute(fields, each, depth=1)


def _read_node(fields: _Fields, of: _Field, *, depth: int) -> None:
    for each in fields.inside(of):
        if each.number == _NODE_ATTRIBUTE:
            _read_attribute(fields, each, depth=depth)


def _read_attribute(fields: _Fields, of: _Field, *, depth: int) -> None:
    for each in fields.inside(of):
        if each.number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            _read_graph(fields, each, None, depth=depth)
        elif each.number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            _read_tensor(fields, each, None)
        elif each.number in (_ATTRIBUTE_SPARSE_TENSOR, _ATTRIBUTE_SPARSE_TENSORS):
            raise ModelUnsupported(_SPARSE)


def _read_tensor(fields: _Fields, of: _Field, graph: _Graph | None) -> None:
    name, shape, kind, raw_bytes = "", list[int](), 0, None
    for each in fields.inside(of):
        if each.number == _TENSOR_DIMS:
            _add_sizes(fields, each, shape)
        elif each.number == _TENSOR_TYPE and each.end is None:
            kind = _uint32(each.value)
        elif each.number == _TENSOR_NAME and graph is not None:
            name = _initializer_name(fields, each, graph)
        elif each.number == _TENSOR_RAW and each.end is not None:
            raw_bytes = each.end - each.value
        elif each.number == _TENSOR_EXTERNAL or (each.number == _TENSOR_LOCATION and _uint32(each.value) == 1):
            raise ModelWeightsApart
    itemsize = _DTYPES.get(kind, ("", 0))[1]
    held_bytes = (of.end or of.value) - of.value
    elements = _elements(shape)
    if elements > _PACKED * held_bytes or (raw_bytes is not None and itemsize and raw_bytes != elements * itemsize):
        raise ModelCorrupt(f"The data of {name[:120]!r} in the ONNX file is not as long as its shape {shape} asks for.")
    if graph is not None:
        graph.initializers.add(name)
        graph.parameters += elements
        graph.weight_bytes += held_bytes


def _add_sizes(fields: _Fields, of: _Field, shape: list[int]) -> None:
    for size in fields.numbers(of):
        if size < 0 or len(shape) == _MAX_DIMENSIONS:  # a gigabyte of them is not read
            raise ModelCorrupt(_IMPOSSIBLE_SHAPE)
        shape.append(size)


def _elements(shape: list[int]) -> int:
    """Their product, taken once a tensor: a file may hold a million of these, and sizes whose product is long."""
    elements = 0 if 0 in shape else math.prod(shape)
    if elements >= _MAX_ELEMENTS:
        raise ModelCorrupt(_IMPOSSIBLE_SHAPE)
    return elements


def _initializer_name(fields: _Fields, of: _Field, graph: _Graph) -> str:
    graph.name_bytes += (of.end or of.value) - of.value
    if graph.name_bytes > _MAX_NAME_BYTES:
        raise ModelUnsupported("The names of the weights in the ONNX file are too long.")
    return fields.text(of, limit=_MAX_NAME_BYTES)


def _add_input(fields: _Fields, of: _Field, graph: _Graph) -> None:
    named, kind = None, None
    for each in fields.inside(of):
        if each.number == _VALUE_NAME:
            named = each
        elif each.number == _VALUE_TYPE:
            kind = _read_type(fields, each)
    name = _checked_name(_text_of(fields, named), "input")
    graph.names.append(name)
    graph.inputs.append(_input_of(name, kind))
    _limit(len(graph.inputs))


def _input_of(name: str, kind: tuple[int, list[int | None] | None] | str | None) -> OnnxInput | ModelUnsupported:
    """The input as it is, or why it cannot be fed."""
    if kind is None or isinstance(kind, str):
        return ModelUnsupported(
            f"The input {name!r} is {kind or 'of no type'}; tensors are what can be measured.",
            hint="Export the model so that it takes tensors only.",
        )
    element, shape = kind
    if element not in _DTYPES:
        return ModelUnsupported(
            f"The input {name!r} takes {_OTHER_DTYPES.get(element, f'elements of the type {element}')}; "
            f"{', '.join(dtype for dtype, _ in _DTYPES.values())} can be fed.",
            hint="Cast inside of the model, behind an input of one of these.",
        )
    if shape is None:
        return ModelUnsupported(
            f"The ONNX file does not say how many axes the input {name!r} has.",
            hint="Export it with a shape; sizes may be left open.",
        )
    for axis, size in enumerate(shape):
        if size is not None and size < 1:
            return ModelUnsupported(
                f"The input {name!r} has the size {size} on axis {axis}: nothing can be fed to it.",
                hint="Export it with the sizes that it takes; one that varies is left open, by dynamic_shapes.",
            )
    return OnnxInput(name, shape, _DTYPES[element][0])


def _read_type(fields: _Fields, of: _Field) -> tuple[int, list[int | None] | None] | str | None:
    """Element type and shape of a tensor, or what it is instead."""
    found: tuple[int, list[int | None] | None] | str | None = None
    for each in fields.inside(of):
        if each.number == _TYPE_TENSOR:
            element, shape = 0, None
            for inner in fields.inside(each):
                if inner.number == _TENSOR_TYPE_ELEMENT and inner.end is None:
                    element = _uint32(inner.value)
                elif inner.number == _TENSOR_TYPE_SHAPE:
                    shape = _read_shape(fields, inner)
            found = element, shape
        elif each.number in _TYPE_KINDS:
            found = _TYPE_KINDS[each.number]
    return found


def _read_shape(fields: _Fields, of: _Field) -> list[int | None]:
    shape: list[int | None] = []
    for dimension in (each for each in fields.inside(of) if each.number == _SHAPE_DIMENSION):
        size = None
        for each in fields.inside(dimension):
            if each.number == _DIMENSION_SIZE and each.end is None:
                size = _signed(each.value)
        shape.append(size)
        if len(shape) > _MAX_DIMENSIONS:
            raise ModelCorrupt("An input in the ONNX file has a shape that cannot be.")
    return shape


def _text_of(fields: _Fields, name: _Field | None) -> str:
    """Of a field that stands several times the last one counts: the others are not even decoded."""
    return "" if name is None else fields.text(name)


def _checked_name(name: str, what: str) -> str:
    if not _NAME.fullmatch(name):
        raise ModelUnsupported(
            f"The name of an {what} must be 1 to 200 printable characters, not {name[:80]!r}.",
            hint="Give it another when you export: torch.onnx.export takes input_names and output_names.",
        )
    return name


def _limit(count: int) -> None:
    if count > _MAX_TENSORS:
        raise ModelUnsupported(f"The model has more than {_MAX_TENSORS} inputs or outputs.")


def _signed(value: int) -> int:
    """An int64, which protobuf writes as its two's complement; of a longer number it drops what is above."""
    return (value + 2**63) % 2**64 - 2**63


def _uint32(value: int) -> int:
    """A type or another enum, none of which is negative: protobuf takes 2**32 + 1 for 1."""
    return value % 2**32
