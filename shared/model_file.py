"""What a model file is, found without torch and without unpickling: its inputs, or why it cannot be served.

A model is a `.pt2` or an ONNX file (`shared/onnx_file.py`), told apart by content. A `.pt2` is a zip that
torch.export.save writes: `models/model.json` (the program), `data/weights/` and `data/constants/` (raw bytes, and a
JSON that says what they are), `data/sample_inputs/model.pt` (a pickle). `torch.export.load` runs code from several of
them (torch 2.13, `torch/export/pt2_archive/_package.py`), so the API refuses at upload, and the runner before loading,
whatever is not plain data. The sandbox remains the boundary.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from shared.errors import (
    ModelCorrupt,
    ModelError,
    ModelIsPickle,
    ModelIsStateDict,
    ModelIsTorchScript,
    ModelUnsafe,
    ModelUnsupported,
)
from shared.onnx_file import inspect_onnx, limit_inputs
from shared.pickle_scan import PickleUnsafe, holds_a_class, refuse_unless_tensors
from shared.program_json import DTYPES, check_qualified_name, parse_object, parse_program
from shared.zip_layout import (
    Window,
    ZipCorrupt,
    ZipHostile,
    ZipMember,
    is_zip,
    read_content,
    read_head,
    read_members,
    verify_checksum,
)

MAX_JSON_BYTES = 64 * 1024**2
_MAX_PICKLE_BYTES = 16 * 1024**2
_HEAD_BYTES = 1024**2
_MAX_DIMENSIONS = 64  # torch's own limit
_MAX_ELEMENTS = 2**63
_VERSION = re.compile(r"[\w.+-]{1,60}", re.ASCII)

_PROGRAM = "models/model.json"
_WEIGHTS = "data/weights/model_weights_config.json"
_CONSTANTS = "data/constants/model_constants_config.json"
_SAMPLE_INPUTS = "data/sample_inputs/model.pt"
_NEEDED = (_PROGRAM, _WEIGHTS, _CONSTANTS, _SAMPLE_INPUTS)
_ARCHIVE_MARKS = r"byteorder|version|\.data/(version|serialization_id)|\.format_version|\.storage_alignment"
_EXPECTED = re.compile(
    rf"{re.escape(_PROGRAM)}|{re.escape(_WEIGHTS)}|{re.escape(_CONSTANTS)}|{re.escape(_SAMPLE_INPUTS)}"
    rf"|data/weights/weight_\d+|data/constants/tensor_\d+|archive_format|archive_version|extra/[^/]+|{_ARCHIVE_MARKS}"
)
_SAMPLE_EXPECTED = re.compile(rf"data\.pkl|data/\d+|{_ARCHIVE_MARKS}")
_PAYLOAD_NAME = re.compile(r"(weight|tensor)_\d+")
_ONNX_HEAD = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42]")
_PICKLE_HEAD = re.compile(rb"\x80[\x00-\x05]")


class TensorDescription(BaseModel):
    """A tensor that the model takes."""

    name: str
    shape: list[int | None] = Field(description="null where any size will do.")
    dtype: str = Field(description="As torch and numpy call it, such as `float32`.")


class ModelDescription(BaseModel):
    """What a model file says of itself."""

    format: Literal["pt2", "onnx"] = "pt2"
    inputs: list[TensorDescription] = Field(description="In the order of the model's arguments.")
    outputs: int = Field(description="How many tensors or values it returns.")
    parameters: int = Field(description="Trained numbers; tied weights are counted once.")
    weight_bytes: int = Field(description="Of parameters, buffers and constants.")
    torch_version: str | None = Field(default=None, description="Of the PyTorch that saved it; null for ONNX.")
    opset: int | None = Field(default=None, description="Of ONNX's own operators; null for a .pt2.")


def inspect_model(path: Path) -> ModelDescription:
    """Read a model file's description, having checked that loading it runs no code and every checksum in it.

    Reads a .pt2 through once (2 GB/s) and keeps no weight in memory. Raises a subclass of ModelError.
    """
    with path.open("rb") as file:
        window = Window(file, 0, path.stat().st_size)
        if not is_zip(head := file.read(_HEAD_BYTES)):
            if _ONNX_HEAD.match(head):
                return _describe_onnx(window)
            raise _what_else(head, window.size)
        try:
            return _inspect_archive(window)
        except ZipCorrupt as error:
            raise ModelCorrupt(f"The .pt2 is truncated or corrupt: {error}.") from error
        except ZipHostile as error:
            raise ModelUnsafe(f"The .pt2 is not what torch.export.save writes: {error}.") from error


def _what_else(head: bytes, size: int) -> ModelError:
    """The error for a file that is not a zip."""
    if not head:
        return ModelCorrupt("The model file is empty.")
    if _PICKLE_HEAD.match(head):
        return ModelIsPickle() if holds_a_class(head) else ModelIsStateDict()
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size:
        return ModelIsStateDict("This is a .safetensors file: weights without the network that uses them.")
    return ModelError()


def _describe_onnx(window: Window) -> ModelDescription:
    found = inspect_onnx(window)
    return ModelDescription(
        format="onnx",
        inputs=[TensorDescription(name=each.name, shape=each.shape, dtype=each.dtype) for each in found.inputs],
        outputs=len(found.outputs),
        parameters=found.parameters,
        weight_bytes=found.weight_bytes,
        opset=found.opset,
    )


def _inspect_archive(window: Window) -> ModelDescription:
    try:
        members = read_members(window, allow_deflate=False)
    except ZipHostile:
        # Other tools compress; say what the file is before saying that it is strange.
        _refuse_other_archives(window, read_members(window, allow_deflate=True))
        raise
    _refuse_other_archives(window, members)
    by_name = _members_below_root(members)
    for name in _NEEDED:
        if name not in by_name:
            raise ModelCorrupt(f"The .pt2 has no {name}.")
    for name in sorted(by_name):
        _refuse_unexpected(name)
    if (order := by_name.get("byteorder")) and read_content(window, order, limit=64) != b"little":
        raise ModelUnsupported("The .pt2 was saved on a big-endian machine.")
    program = parse_program(read_content(window, by_name[_PROGRAM], limit=MAX_JSON_BYTES))
    payloads = [
        _read_payloads(window, by_name, config, folder)
        for config, folder in ((_WEIGHTS, "data/weights/"), (_CONSTANTS, "data/constants/"))
    ]
    _check_sample_inputs(window, by_name[_SAMPLE_INPUTS])
    for member in members:
        verify_checksum(window, member)
    return _describe(program, *payloads)


def _refuse_other_archives(window: Window, members: list[ZipMember]) -> None:
    """Raise the fitting error for a zip that is something else than a .pt2."""
    by_name = {member.name.partition("/")[2]: member for member in members}
    if "constants.pkl" in by_name:
        raise ModelIsTorchScript
    if _PROGRAM not in by_name and (pickle := by_name.get("data.pkl")):
        raise ModelIsPickle if holds_a_class(read_head(window, pickle, _MAX_PICKLE_BYTES)) else ModelIsStateDict
    if any(member.name in {"version", "serialized_exported_program.json"} for member in members):
        raise ModelUnsupported(
            "The program was saved by PyTorch before 2.8, as pickles.",
            hint="Export it again with the PyTorch that the workers run: see `octavo meta`, or GET /v1/meta.",
        )
    if members and all(member.name.endswith(".npy") for member in members):
        raise ModelError("This is an .npz dataset, not a model.")
    if _PROGRAM not in by_name:
        raise ModelError("This is a zip file, but not an exported program.")


def _members_below_root(members: list[ZipMember]) -> dict[str, ZipMember]:
    """Names without the archive's one root folder, which torch takes from the first member."""
    roots = {member.name.partition("/")[0] for member in members}
    if len(roots) != 1:
        raise ModelCorrupt("The .pt2 does not have exactly one root folder.")
    return {member.name.partition("/")[2]: member for member in members}


def _refuse_unexpected(name: str) -> None:
    if _EXPECTED.fullmatch(name):
        return
    if name.startswith("data/aotinductor/") or name.endswith((".so", ".pyd", ".dll", ".dylib")):
        raise ModelUnsafe("The .pt2 carries compiled code (AOTInductor), which Octavo never runs.")
    if name.startswith(("data/constants/custom_obj_", "data/constants/opaque_obj_")):
        raise ModelUnsafe("The .pt2 carries a pickled custom object, which Octavo never loads.")
    if name in {"data/weights/model.pt", "data/constants/model.pt"}:
        raise ModelUnsupported(
            "The .pt2 was saved by an older PyTorch, which pickled the weights.",
            hint="Export it again with the PyTorch that the workers run: see `octavo meta`, or GET /v1/meta.",
        )
    if name.startswith(("models/", "data/sample_inputs/")):
        raise ModelUnsupported("The .pt2 holds more than one program.", hint="Save each in a .pt2 of its own.")
    raise ModelUnsafe(f"The .pt2 holds {name[:120]!r}, which torch.export.save does not write.")


class _Payload(BaseModel):
    """A parameter, buffer or constant: where it lies and what it is."""

    record: str
    shape: list[int]
    strides: list[int]
    offset: int
    dtype: str
    itemsize: int
    is_parameter: bool


def _read_payloads(window: Window, by_name: dict[str, ZipMember], config: str, folder: str) -> dict[str, _Payload]:
    """The payloads that a config names, each held against the bytes that are there."""
    entries = parse_object(read_content(window, by_name[config], limit=MAX_JSON_BYTES), config).get("config")
    if not isinstance(entries, dict):
        raise ModelCorrupt(f"{config} in the .pt2 lacks a part.")
    payloads = {}
    for name, entry in entries.items():
        check_qualified_name(name)
        try:
            payload = _read_payload(name, entry)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelCorrupt(f"{config} in the .pt2 says nothing usable of {name[:120]!r}.") from error
        member = by_name.get(folder + payload.record)
        if member is None:
            raise ModelCorrupt(f"The .pt2 lacks the data of {name[:120]!r}.")
        if member.size % payload.itemsize or _extent(payload) * payload.itemsize > member.size:
            raise ModelCorrupt(
                f"The data of {name[:120]!r} has {member.size} bytes; "
                f"{payload.dtype} of shape {payload.shape} needs {_extent(payload) * payload.itemsize}."
            )
        payloads[name] = payload
    return payloads


def _read_payload(name: str, entry: dict[str, Any]) -> _Payload:
    if entry["use_pickle"] is not False:
        raise ModelUnsafe(
            f"The tensor {name[:120]!r} is pickled, and unpickling it would run code from the file.",
            hint="Tensor subclasses are saved so: make it plain (tensor.as_subclass(torch.Tensor)) and export again.",
        )
    if not _PAYLOAD_NAME.fullmatch(entry["path_name"]):
        raise ModelUnsafe(f"The data of {name[:120]!r} is said to lie in {entry['path_name'][:120]!r}.")
    meta = entry["tensor_meta"]
    if meta["device"]["type"] != "cpu":
        raise ModelUnsupported(
            f"The tensor {name[:120]!r} was saved on {str(meta['device']['type'])[:20]!r}.",
            hint="Move the module and the example inputs to the CPU (module.cpu()) and export again.",
        )
    dtype, itemsize = DTYPES[meta["dtype"]]
    return _Payload(
        record=entry["path_name"],
        shape=[size["as_int"] for size in meta["sizes"]],
        strides=[stride["as_int"] for stride in meta["strides"]],
        offset=meta["storage_offset"]["as_int"],
        dtype=dtype,
        itemsize=itemsize,
        is_parameter=entry["is_param"],
    )


def _extent(payload: _Payload) -> int:
    """Elements from the record's start to the last one that the strides reach; raises ModelCorrupt below zero."""
    if (
        len(payload.shape) != len(payload.strides)
        or min([payload.offset, *payload.shape, *payload.strides]) < 0
        # Strides of 0 describe any number of elements in a few bytes.
        or len(payload.shape) > _MAX_DIMENSIONS
        or math.prod(payload.shape) >= _MAX_ELEMENTS
    ):
        raise ModelCorrupt("A tensor in the .pt2 has a shape that cannot be.")
    if 0 in payload.shape:
        return 0
    steps = zip(payload.shape, payload.strides, strict=True)
    return payload.offset + sum((size - 1) * stride for size, stride in steps) + 1


def _check_sample_inputs(window: Window, member: ZipMember) -> None:
    """Example inputs are a torch.save file within the .pt2; torch unpickles it with and then without restriction."""
    if member.size == 0:
        return
    hint = "Export with plain tensors as example inputs, or set program.example_inputs = None before saving."
    inner = window.member(member)
    if not is_zip(inner.read(0, min(4, inner.size))):
        raise ModelUnsafe("The example inputs in the .pt2 are in PyTorch's old pickle format.", hint=hint)
    by_name = _members_below_root(members := read_members(inner, allow_deflate=False))
    for name in by_name:
        if not _SAMPLE_EXPECTED.fullmatch(name):
            raise ModelUnsafe(f"The example inputs in the .pt2 hold {name!r}.", hint=hint)
    if len(by_name) != len(members) or "data.pkl" not in by_name:
        raise ModelCorrupt("The example inputs in the .pt2 are damaged.")
    try:
        refuse_unless_tensors(read_content(inner, by_name["data.pkl"], limit=_MAX_PICKLE_BYTES))
    except PickleUnsafe as error:
        raise ModelUnsafe(f"The example inputs in the .pt2 hold more than tensors: {error}.", hint=hint) from error


def _describe(
    program: dict[str, Any], weights: dict[str, _Payload], constants: dict[str, _Payload]
) -> ModelDescription:
    try:
        graph = program["graph_module"]["graph"]
        signature = program["graph_module"]["signature"]
        inputs, names, axes = list[TensorDescription](), set[str](), 0
        for spec in signature["input_specs"]:
            kind, fields = next(iter(spec.items()))
            if kind == "user_input":
                found = _describe_input(fields["arg"], graph["tensor_values"])
                if found.name in names:
                    raise ModelCorrupt(f"Two inputs in the .pt2 have the same name, {found.name[:120]!r}.")
                inputs.append(found)
                names.add(found.name)
                axes += len(found.shape)
                limit_inputs(len(inputs), axes)
            elif kind in {"parameter", "buffer", "tensor_constant"}:
                name = fields[f"{kind}_name"]
                if name not in weights and name not in constants:
                    raise ModelCorrupt(f"The .pt2 lacks the data of {name[:120]!r}.")
        outputs = sum("user_output" in spec for spec in signature["output_specs"])
        if not inputs:
            raise ModelUnsupported("The model takes no tensor.")
        if not _VERSION.fullmatch(version := program["torch_version"]):
            raise ModelCorrupt("models/model.json in the .pt2 does not say which PyTorch saved it.")
        payloads = [*weights.values(), *constants.values()]
        distinct = {
            (p.record, p.offset, *p.shape, *p.strides): math.prod(p.shape) for p in weights.values() if p.is_parameter
        }
        return ModelDescription(
            inputs=inputs,
            outputs=outputs,
            parameters=sum(distinct.values()),
            weight_bytes=sum(math.prod(p.shape) * p.itemsize for p in payloads),
            torch_version=version,
        )
    except (KeyError, TypeError, AttributeError, StopIteration, ValueError) as error:
        raise ModelCorrupt("models/model.json in the .pt2 lacks a part.") from error


def _describe_input(argument: dict[str, Any], tensors: dict[str, Any]) -> TensorDescription:
    if "as_tensor" not in argument:
        raise ModelUnsupported(
            "The model takes a number or a string beside tensors.",
            hint="Fix it in the module (functools.partial, or an attribute) and export with tensors only.",
        )
    name = argument["as_tensor"]["name"]
    meta = tensors[name]
    shape = [size.get("as_int") for size in meta["sizes"]]
    if len(shape) > _MAX_DIMENSIONS or not all(size is None or 0 <= size < _MAX_ELEMENTS for size in shape):
        raise ModelCorrupt(f"The shape of the input {name!r} cannot be.")
    if 0 in shape:
        raise ModelUnsupported(
            f"The input {name!r} has the size 0 on axis {shape.index(0)}: nothing can be fed to it.",
            hint="Export it with an example that holds numbers; a size that varies is left open, by dynamic_shapes.",
        )
    return TensorDescription(name=name, shape=shape, dtype=DTYPES[meta["dtype"]][0])
