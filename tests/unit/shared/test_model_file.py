"""A .pt2 is described without torch, and whatever else is sent as a model is refused by its name."""

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from shared.errors import (
    ModelCorrupt,
    ModelError,
    ModelIsPickle,
    ModelIsStateDict,
    ModelIsTorchScript,
    ModelUnsafe,
    ModelUnsupported,
)
from shared.model_file import ModelDescription, TensorDescription, inspect_model
from tests.hostile.models import (
    ATTACKS,
    CONSTANTS,
    PROGRAM,
    SAMPLE_INPUTS,
    WEIGHTS,
    SmallNet,
    edit_json,
    export_small_net,
    read_member,
    rewrite,
)

DYNAMIC = torch.export.Dim.DYNAMIC


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_small_net(tmp_path_factory.mktemp("honest") / "honest.pt2")


def test_images_of_any_size_are_an_honest_input(tmp_path: Path) -> None:
    """Convolving over a dynamic height and width leaves guards with max() and divisions in the program."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2))
    sizes = {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC}
    program = torch.export.export(network.eval(), (torch.randn(2, 3, 32, 32),), dynamic_shapes=(sizes,))
    torch.export.save(program, tmp_path / "any_size.pt2")
    assert any("max(" in guard for guard in program._guards_code), "the export has such a guard"
    assert inspect_model(tmp_path / "any_size.pt2").inputs[0].shape == [None, 3, None, None]


def test_an_honest_model_is_described(honest: Path) -> None:
    assert inspect_model(honest) == ModelDescription(
        inputs=[TensorDescription(name="x", shape=[None, 3, 8, 8], dtype="float32")],
        outputs=1,
        parameters=sum(parameter.numel() for parameter in SmallNet().parameters()),
        weight_bytes=sum(t.numel() * t.element_size() for t in SmallNet().state_dict().values()) + 4 * 4,
        torch_version=torch.__version__,
    )


def test_reading_needs_neither_torch_nor_numpy(honest: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from shared.model_file import inspect_model; "
        f"inspect_model(Path({str(honest)!r})); print({{'torch', 'numpy'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embedding.weight
        self.part = nn.Parameter(torch.randn(100)[3:9])  # a view of a larger storage

    def forward(self, ids: torch.Tensor, weights: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.head(self.embedding(ids)) + self.part.sum(), weights["by key"][1:] * 2


def test_tied_weights_views_nested_inputs_and_derived_sizes_are_understood(tmp_path: Path) -> None:
    length = torch.export.Dim("length", min=4, max=64)
    arguments = (torch.zeros(2, 5, dtype=torch.int64), {"by key": torch.zeros(4)})
    shapes = {"ids": {0: DYNAMIC, 1: length}, "weights": {"by key": {0: length - 1}}}
    torch.export.save(torch.export.export(Tied(), arguments, dynamic_shapes=shapes), tmp_path / "tied.pt2")
    described = inspect_model(tmp_path / "tied.pt2")
    assert [(tensor.shape, tensor.dtype) for tensor in described.inputs] == [
        ([None, None], "int64"),
        ([None], "float32"),
    ]
    assert (described.outputs, described.parameters) == (2, 46)


class Everyday(nn.Module):
    """Operators whose exported form is not aten alone: no_grad blocks, cond, arithmetic on sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.rnn(x)
        with torch.no_grad():
            scale = y.mean()
        y = y.reshape(x.shape[0] * x.shape[1] // 5, -1)[: (x.shape[0] + 1) // 2]
        return torch.cond(scale > 0, lambda z: z + 1, lambda z: z & z if z.dtype == torch.bool else z - 1, (y,))


def test_control_flow_and_arithmetic_on_sizes_are_allowed(tmp_path: Path) -> None:
    program = torch.export.export(Everyday().eval(), (torch.randn(4, 5, 4),), dynamic_shapes=({0: DYNAMIC},))
    torch.export.save(program, tmp_path / "everyday.pt2")
    assert inspect_model(tmp_path / "everyday.pt2").inputs[0].shape == [None, 5, 4]


# --- other files -----------------------------------------------------------------------------------------------------


def saved(thing: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(thing, file, **options)
    return file.getvalue()


def scripted() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)
    return file.getvalue()


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "."), data)
    return file.getvalue()


def safetensors_file() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


ONNX = b"\x08\x08\x12\x07pytorch\x1a\x052.1.0"
OTHER_FILES: dict[str, tuple[Callable[[], bytes], type[ModelError]]] = {
    "module": (lambda: saved(SmallNet()), ModelIsPickle),
    "module in the old format": (lambda: saved(SmallNet(), _use_new_zipfile_serialization=False), ModelIsPickle),
    "plain pickle of a module": (lambda: pickle.dumps(nn.Linear(2, 2)), ModelIsPickle),
    "state_dict": (lambda: saved(SmallNet().state_dict()), ModelIsStateDict),
    "state_dict in the old format": (
        lambda: saved(SmallNet().state_dict(), _use_new_zipfile_serialization=False),
        ModelIsStateDict,
    ),
    "checkpoint": (lambda: saved({"model": SmallNet().state_dict(), "epoch": 3, "lr": 0.1}), ModelIsStateDict),
    "safetensors": (safetensors_file, ModelIsStateDict),
    "TorchScript": (scripted, ModelIsTorchScript),
    "npz": (lambda: zipped(x__npy=b"\x93NUMPY"), ModelError),
    "some zip": (lambda: zipped(readme__txt=b"hello"), ModelError),
    "text": (lambda: b"hello", ModelError),
    "nothing": (lambda: b"", ModelCorrupt),
    "zip without members": (zipped, ModelError),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_another_kind_of_file_is_called_by_its_name_with_a_hint(tmp_path: Path, kind: str) -> None:
    make, expected = OTHER_FILES[kind]
    path = tmp_path / "model.pt2"
    path.write_bytes(make())
    with pytest.raises(ModelError) as caught:
        inspect_model(path)
    assert type(caught.value) is expected
    assert caught.value.hint


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.98, 0.9999])
def test_a_truncated_file_is_corrupt(honest: Path, tmp_path: Path, kept: float) -> None:
    data = honest.read_bytes()
    (tmp_path / "cut.pt2").write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ModelCorrupt, match="truncated"):
        inspect_model(tmp_path / "cut.pt2")


def test_one_flipped_bit_of_any_weight_is_noticed(honest: Path, tmp_path: Path) -> None:
    weight = read_member(honest, "data/weights/weight_0")
    data = bytearray(honest.read_bytes())
    data[data.index(weight) + len(weight) // 2] ^= 1
    (tmp_path / "flipped.pt2").write_bytes(data)
    with pytest.raises(ModelCorrupt, match="checksum"):
        inspect_model(tmp_path / "flipped.pt2")


def shorter_weight(source: Path, target: Path) -> Path:
    return rewrite(source, target, {"data/weights/weight_0": read_member(source, "data/weights/weight_0")[:-4]})


def missing_weight(source: Path, target: Path) -> Path:
    return rewrite(source, target, {"data/weights/weight_0": None})


def larger_shape(source: Path, target: Path) -> Path:
    """A small file that asks for 4 TiB."""

    def enlarge(config: dict[str, Any]) -> None:
        config["config"]["head.bias"]["tensor_meta"]["sizes"] = [{"as_int": 2**40}]

    return edit_json(source, target, WEIGHTS, enlarge)


def negative_stride(source: Path, target: Path) -> Path:
    def turn(config: dict[str, Any]) -> None:
        config["config"]["head.bias"]["tensor_meta"]["strides"] = [{"as_int": -1}]

    return edit_json(source, target, WEIGHTS, turn)


def broken_json(source: Path, target: Path) -> Path:
    return rewrite(source, target, {PROGRAM: read_member(source, PROGRAM)[:-9]})


def nested_json(source: Path, target: Path) -> Path:
    return rewrite(source, target, {PROGRAM: b"[" * 200_000})


def no_signature(source: Path, target: Path) -> Path:
    return edit_json(source, target, PROGRAM, lambda program: program["graph_module"].pop("signature"))


def unknown_buffer(source: Path, target: Path) -> Path:
    return edit_json(source, target, WEIGHTS, lambda config: config["config"].pop("norm.running_mean"))


def no_constants(source: Path, target: Path) -> Path:
    return rewrite(source, target, {CONSTANTS: None})


@pytest.mark.parametrize(
    "damage",
    [
        shorter_weight, missing_weight, larger_shape, negative_stride, broken_json, nested_json, no_signature,
        unknown_buffer, no_constants,
    ],
)  # fmt: skip
def test_a_file_that_contradicts_itself_is_corrupt(
    honest: Path, tmp_path: Path, damage: Callable[[Path, Path], Path]
) -> None:
    with pytest.raises(ModelCorrupt):
        inspect_model(damage(honest, tmp_path / "damaged.pt2"))


def test_another_schema_asks_for_a_new_export(honest: Path, tmp_path: Path) -> None:
    path = edit_json(honest, tmp_path / "old.pt2", PROGRAM, lambda program: program["schema_version"].update(major=7))
    with pytest.raises(ModelUnsupported, match="another format"):
        inspect_model(path)


# --- harm ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_way_that_torch_export_load_runs_code_is_refused(
    honest: Path, tmp_path: Path, attack: Callable[[Path, Path, Path], Path]
) -> None:
    """`tests/integration/test_sandbox.py` shows that these attacks are real."""
    with pytest.raises(ModelUnsafe):
        inspect_model(attack(honest, tmp_path / "evil.pt2", tmp_path / "marker"))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "member",
    [
        "data/aotinductor/model/x.so", "data/constants/custom_obj_0", "data/constants/opaque_obj_0", "extra/../../x",
        "../evil", "run.py", "data/weights/../../../etc/passwd", "MODELS/model.json", "data/weights/WEIGHT_0",
    ],
)  # fmt: skip
def test_members_that_torch_does_not_write_are_refused(honest: Path, tmp_path: Path, member: str) -> None:
    with pytest.raises((ModelUnsafe, ModelCorrupt)):
        inspect_model(rewrite(honest, tmp_path / "more.pt2", {member: b"x"}))


@pytest.mark.parametrize("member", ["data/weights/model.pt", "models/second.json"])
def test_older_and_double_programs_are_not_supported(honest: Path, tmp_path: Path, member: str) -> None:
    with pytest.raises(ModelUnsupported):
        inspect_model(rewrite(honest, tmp_path / "more.pt2", {member: b"x"}))


def test_a_compressed_archive_is_refused_as_a_bomb_would_be(honest: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelUnsafe, match="compressed"):
        inspect_model(rewrite(honest, tmp_path / "bomb.pt2", {}, compression=zipfile.ZIP_DEFLATED))


def test_two_members_of_one_name_are_refused(honest: Path, tmp_path: Path) -> None:
    path = rewrite(honest, tmp_path / "double.pt2", {})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(f"honest/{PROGRAM}", b"{}")
    with pytest.raises(ModelCorrupt, match="same name"):
        inspect_model(path)


def test_bytes_before_or_after_the_archive_are_refused(honest: Path, tmp_path: Path) -> None:
    for name, data in {"before": b"x" + honest.read_bytes(), "after": honest.read_bytes() + b"x"}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ModelError):
            inspect_model(tmp_path / name)


class _Reduces:
    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def forged_sample_inputs(data_pkl: bytes) -> bytes:
    """A torch.save file with another pickle in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved((torch.zeros(1),)))) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, data_pkl if name.endswith("data.pkl") else old.read(name))
    return file.getvalue()


@pytest.mark.parametrize(
    "data_pkl",
    [
        pickle.dumps(_Reduces(print, ("x",)), 2),
        pickle.dumps(_Reduces(print, ("x",)), 4),  # STACK_GLOBAL
        b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
        b"\x80\x02c__main__\nx\n.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.",  # BUILD on a function
        b"\x80\x02ctorch\nload\n.",
        b"\x80\x02ctorch\\x2e_utils\n_rebuild_tensor_v2\n.",  # an escape that pickletools would undo
        b"\x80\x02\x82\x01.",  # EXT1
        b"(ios\nsystem\n.",  # INST
        b"\x80\x02X\xff\xff\xff\x7fabc",
        b"",
    ],
)
def test_a_pickle_that_does_more_than_rebuild_tensors_is_refused(honest: Path, tmp_path: Path, data_pkl: bytes) -> None:
    path = rewrite(honest, tmp_path / "evil.pt2", {SAMPLE_INPUTS: forged_sample_inputs(data_pkl)})
    with pytest.raises(ModelUnsafe):
        inspect_model(path)


def test_example_inputs_that_are_torchscript_or_an_old_pickle_are_refused(honest: Path, tmp_path: Path) -> None:
    """torch.load hands the first to torch.jit.load, and reads the second without looking into a zip."""
    old = saved((torch.zeros(1),), _use_new_zipfile_serialization=False)
    for data in (scripted(), old, b"garbage"):
        with pytest.raises(ModelUnsafe):
            inspect_model(rewrite(honest, tmp_path / "evil.pt2", {SAMPLE_INPUTS: data}))


def test_honest_example_inputs_of_many_kinds_and_none_are_accepted(honest: Path, tmp_path: Path) -> None:
    kinds = (torch.zeros(2, dtype=torch.int64), [torch.zeros(1, dtype=torch.bfloat16)], {"a": 1.5, "b": None, "c": "s"})
    for data in (saved((kinds, {"flag": True})), saved(((nn.Parameter(torch.ones(2)),), {})), b""):
        inspect_model(rewrite(honest, tmp_path / "kinds.pt2", {SAMPLE_INPUTS: data}))


def with_target(target: str) -> Callable[[dict[str, Any]], None]:
    return lambda program: program["graph_module"]["graph"]["nodes"][0].update(target=target)


def with_size(expression: str) -> Callable[[dict[str, Any]], None]:
    def write(program: dict[str, Any]) -> None:
        program["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = expression

    return write


def with_in_spec(kind: str, context: str) -> Callable[[dict[str, Any]], None]:
    def write(program: dict[str, Any]) -> None:
        spec = json.dumps([1, {"type": kind, "context": context, "children_spec": []}])
        program["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = spec

    return write


def with_parameter(name: str) -> Callable[[dict[str, Any]], None]:
    def write(program: dict[str, Any]) -> None:
        program["graph_module"]["signature"]["input_specs"][0]["parameter"]["parameter_name"] = name

    return write


def with_module_path(path: str) -> Callable[[dict[str, Any]], None]:
    def write(program: dict[str, Any]) -> None:
        node = program["graph_module"]["graph"]["nodes"][0]
        node["metadata"]["nn_module_stack"] = f"L__self__,,Net;L__self__0,{path},torch.nn.modules.linear.Linear"

    return write


@pytest.mark.parametrize(
    "edit",
    [
        with_target("torch.hub.load"),
        with_target("torch.os.system"),
        with_target("torch.ops.load_library"),
        with_target("torch.ops.aten.from_file.default"),
        with_target("torch.ops.aten.__class__"),
        with_target("math.__loader__.load_module"),
        with_size("Symbol('s0').__class__"),
        with_size("(lambda: 1)()"),
        with_size("open('x')"),
        with_size("Symbol('s0;import os')"),
        with_size("[x for x in (1,)][0]"),
        with_in_spec("builtins.dict", json.dumps([{"__enum__": True, "fqn": "os:x", "name": "y"}])),
        with_in_spec("builtins.dict", json.dumps(['a"b'])),
        with_parameter('x", __import__("os"))'),
        with_parameter("x\ud800"),
        with_module_path('x" if exec("1") else "0'),
        with_module_path("x\\"),
        with_module_path("x\x00"),
        with_module_path("x\x1b[8m"),
        with_module_path("x\u202ey"),
        with_module_path("x\ud800"),
        with_module_path("n" * 5000),
        with_module_path(".".join("n" * 3000)),
        lambda program: program["guards_code"].append("__import__('os').getpid() > 0"),
        lambda program: program["guards_code"].append("L['a\"b'].size()[0] == 1"),
        lambda program: program["range_constraints"].update(u9999999999={"min_val": 0, "max_val": 1}),
    ],
)
def test_names_operators_and_expressions_outside_of_the_allow_lists_are_refused(
    honest: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    with pytest.raises(ModelUnsafe):
        inspect_model(edit_json(honest, tmp_path / "evil.pt2", PROGRAM, edit))


def test_a_layer_may_have_a_name_of_any_script(honest: Path, tmp_path: Path) -> None:
    inspect_model(edit_json(honest, tmp_path / "named.pt2", PROGRAM, with_module_path("größe-1.中文/a b")))


@pytest.mark.parametrize(
    "edit",
    [
        with_target("torch.ops.mylib.fast_gelu.default"),
        with_in_spec("collections.defaultdict", json.dumps({"default_factory_module": "os"})),
        with_in_spec("transformers.modeling_outputs.BaseModelOutput", "null"),
    ],
)
def test_what_the_worker_cannot_run_is_said_to_be_unsupported(
    honest: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    with pytest.raises(ModelUnsupported) as caught:
        inspect_model(edit_json(honest, tmp_path / "other.pt2", PROGRAM, edit))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("sizes", "strides"), [([1] * 65, [0] * 65), ([2**62] * 300, [0] * 300), ([2**63], [0]), ([2**32, 2**32], [0, 0])]
)
def test_a_tensor_that_no_memory_could_hold_is_corrupt(
    honest: Path, tmp_path: Path, sizes: list[int], strides: list[int]
) -> None:
    def enlarge(config: dict[str, Any]) -> None:
        config["config"]["head.bias"]["tensor_meta"] |= {
            "sizes": [{"as_int": size} for size in sizes],
            "strides": [{"as_int": stride} for stride in strides],
        }

    with pytest.raises(ModelCorrupt, match="cannot be"):
        inspect_model(edit_json(honest, tmp_path / "x.pt2", WEIGHTS, enlarge))


@pytest.mark.parametrize("size", [-5, 2**63, 10**3000])
def test_an_input_of_an_impossible_size_is_corrupt(honest: Path, tmp_path: Path, size: int) -> None:
    def resize(program: dict[str, Any]) -> None:
        program["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][1] = {"as_int": size}

    with pytest.raises(ModelCorrupt, match="cannot be"):
        inspect_model(edit_json(honest, tmp_path / "x.pt2", PROGRAM, resize))


def test_an_input_that_nothing_can_be_fed_to_is_named(honest: Path, tmp_path: Path) -> None:
    def empty(program: dict[str, Any]) -> None:
        program["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][1] = {"as_int": 0}

    with pytest.raises(ModelUnsupported, match="'x' has the size 0 on axis 1: nothing can be fed") as caught:
        inspect_model(edit_json(honest, tmp_path / "x.pt2", PROGRAM, empty))
    assert "left open" in str(caught.value.hint)


def with_inputs(count: int, axes: int, name: str = "more{}") -> Callable[[dict[str, Any]], None]:
    """So many inputs beside the one of four axes that there is."""

    def add(program: dict[str, Any]) -> None:
        tensors = program["graph_module"]["graph"]["tensor_values"]
        for each in (name.format(number) for number in range(count)):
            tensors[each] = tensors["x"] | {"sizes": [{"as_int": 1}] * axes}
            program["graph_module"]["signature"]["input_specs"].append(
                {"user_input": {"arg": {"as_tensor": {"name": each}}}}
            )

    return add


@pytest.mark.parametrize(("count", "axes"), [(999, 1), (156, 64)])
def test_the_most_inputs_and_axes_are_described(honest: Path, tmp_path: Path, count: int, axes: int) -> None:
    path = edit_json(honest, tmp_path / "x.pt2", PROGRAM, with_inputs(count, axes))
    assert len(inspect_model(path).inputs) == 1 + count


@pytest.mark.parametrize(("count", "axes"), [(1000, 0), (157, 64)])
def test_more_inputs_or_axes_than_a_model_needs_are_refused(
    honest: Path, tmp_path: Path, count: int, axes: int
) -> None:
    """The description is kept, and read again by whatever names the model."""
    with pytest.raises(ModelUnsupported, match="more than 1000 inputs, or more than 10000 axes") as caught:
        inspect_model(edit_json(honest, tmp_path / "x.pt2", PROGRAM, with_inputs(count, axes)))
    assert caught.value.hint


def test_two_inputs_of_one_name_are_corrupt(honest: Path, tmp_path: Path) -> None:
    """Each would cost the file 60 bytes, and its description 1.4 kB."""
    with pytest.raises(ModelCorrupt, match=r"Two inputs in the \.pt2 have the same name, 'more'"):
        inspect_model(edit_json(honest, tmp_path / "x.pt2", PROGRAM, with_inputs(2, 1, name="more")))


@pytest.mark.parametrize("version", ["2.13\ud800", "2.13\0", "", ["2.13"]])
def test_a_version_that_is_not_one_is_corrupt(honest: Path, tmp_path: Path, version: object) -> None:
    with pytest.raises(ModelCorrupt):
        inspect_model(
            edit_json(honest, tmp_path / "x.pt2", PROGRAM, lambda program: program.update(torch_version=version))
        )


def test_a_text_of_brackets_is_not_parsed(honest: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelUnsafe, match="more parts"):
        inspect_model(rewrite(honest, tmp_path / "x.pt2", {PROGRAM: b'{"a":[' + b"[]," * 3_000_000 + b"1]}"}))
