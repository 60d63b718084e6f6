"""What a plan chooses, why, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from shared.errors import NothingToQuantize, SpecInvalid
from shared.layer_report import LayerPrecision
from shared.quantization_spec import DynamicSpec, QatSpec, StaticSpec, spec_adapter
from worker.quantization import (
    choosing_kernels,
    convert,
    freeze,
    freeze_batch_norm,
    freeze_observers,
    int8_kernels,
    plan,
    planning,
    prepare,
    prepare_qat,
    quantize_dynamic,
    raise_program,
)
from worker.quantization.choosing_kernels import has_vnni
from worker.quantization.grouping import groups
from worker.quantization.int8_modules import precision_of

PER_CHANNEL = "per_channel_minmax"
MODEL, DATASET = "mdl_0123456789abcdef", "dst_0123456789abcdef"


def spec(method: str, **settings: Any) -> DynamicSpec | StaticSpec | QatSpec:
    data = {"dynamic": {}, "static": {"calibration": DATASET}, "qat": {"training": DATASET}}[method]
    return spec_adapter.validate_python({"method": method, "model": MODEL, **data, **settings})


def raised(module: nn.Module, *inputs: Tensor) -> fx.GraphModule:
    shapes = tuple({0: Dim.DYNAMIC} for _ in inputs)
    return raise_program(torch.export.export(module.eval(), inputs, dynamic_shapes=shapes))


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(x)
        return self.fc(torch.relu(self.layer2(x) + x).mean((2, 3)))


@pytest.fixture(scope="module")
def convolutional() -> fx.GraphModule:
    return raised(Convolutional(), torch.randn(2, 3, 8, 8))


@pytest.fixture(scope="module")
def transformer() -> fx.GraphModule:
    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.head = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(x).mean(1))

    return raised(Transformer(), torch.randn(2, 5, 16))


def test_a_convolutional_network_is_quantized_whole(convolutional: fx.GraphModule) -> None:
    settled = plan(convolutional, spec("static"))
    assert settled.operators == "all"
    assert settled.int8_layers == {"layer1.0", "layer2.0", "add", "fc"}


def test_an_average_stays_in_float_for_its_range_is_its_own(convolutional: fx.GraphModule) -> None:
    settled = plan(convolutional, spec("static"))
    assert list(settled.float_layers) == ["mean"]
    assert "narrower range" in settled.float_layers["mean"]


def test_of_a_transformer_only_linears_are_quantized_and_the_head_stays_float(transformer: fx.GraphModule) -> None:
    settled = plan(transformer, spec("static"))
    assert settled.operators == "weighted"
    assert settled.int8_layers == {
        "encoder.self_attn.in_proj", "encoder.self_attn.out_proj", "encoder.linear1", "encoder.linear2",
    }  # fmt: skip
    assert "last Linear" in settled.float_layers["head"]
    assert "layer norm" in settled.float_layers["encoder.norm1"]


def test_resolved_fills_in_every_auto_but_the_range_rule(convolutional: fx.GraphModule) -> None:
    """That one is settled once the data has been seen."""
    resolved = plan(convolutional, spec("static")).resolved()
    assert resolved["qengine"] == ("onednn" if has_vnni() else "x86")
    assert resolved["activation"] == {
        "observer": "auto",
        "averaging_constant": 0.01,
        "percentile": 99.99,
        "qscheme": "per_tensor_affine",
        "reduce_range": not has_vnni(),
        "quant_min": None,
        "quant_max": None,
    }
    assert resolved["weight"] == {
        "observer": "per_channel_minmax",
        "qscheme": "per_channel_symmetric",
        "averaging_constant": 0.01,
        "quant_min": -127,
        "quant_max": 127,
    }
    assert resolved["plan"]["operators"] == "all"


def test_what_is_asked_is_kept(convolutional: fx.GraphModule) -> None:
    asked = spec(
        "static",
        qengine="x86",
        activation={"observer": "minmax", "reduce_range": True},
        weight={"observer": "minmax"},
    )
    settled = plan(convolutional, asked)
    activation = settled.settings.activation
    assert (settled.qengine, activation.observer, activation.reduce_range) == ("x86", "minmax", True)
    assert not settled.settings.per_channel


@pytest.mark.parametrize(("qengine", "vnni", "reduced"), [
    ("auto", True, False), ("auto", False, True), ("onednn", False, True), ("x86", True, True), ("fbgemm", True, True),
])  # fmt: skip
def test_activations_keep_to_seven_bits_where_kernels_would_saturate(
    convolutional: fx.GraphModule, monkeypatch: pytest.MonkeyPatch, qengine: str, vnni: bool, reduced: bool
) -> None:
    monkeypatch.setattr(choosing_kernels, "has_vnni", lambda: vnni)
    settled = planning.choose_plan(convolutional, spec("static", qengine=qengine))
    assert settled.settings.activation.reduce_range is reduced


def test_the_range_rule_is_settled_where_it_was_left_open(convolutional: fx.GraphModule) -> None:
    overrides = [
        {"layer": "fc", "activation": {"observer": "percentile"}},
        {"layer": "layer1.0", "weight": {"observer": "minmax"}},
    ]
    settled = planning.choose_plan(convolutional, spec("static", overrides=overrides)).with_observer("histogram")
    assert settled.settings.activation.observer == "histogram"
    assert settled.settings_of("layer1.0").activation.observer == "histogram"
    assert settled.settings_of("fc").activation.observer == "percentile"


def test_qat_takes_all_that_was_seen(convolutional: fx.GraphModule) -> None:
    assert planning.choose_plan(convolutional, spec("qat")).settings.activation.observer == "minmax"


def test_a_layer_has_the_settings_of_the_last_override_that_matches(convolutional: fx.GraphModule) -> None:
    overrides = [
        {"op": "Conv2d", "activation": {"observer": "minmax"}, "weight": {"observer": "minmax"}},
        {"layer": "layer2.*", "activation": {"observer": "percentile", "percentile": 99}},
    ]
    settled = planning.choose_plan(convolutional, spec("static", overrides=overrides))
    first, second, fc = (settled.settings_of(layer) for layer in ("layer1.0", "layer2.0", "fc"))
    assert (first.activation.observer, first.weight.qscheme) == ("minmax", "per_tensor_symmetric")
    assert (second.activation.observer, second.activation.percentile) == ("percentile", 99)
    assert second.weight.qscheme == "per_channel_symmetric"
    assert fc == settled.settings
    assert settled.asked_layers == {"layer1.0", "layer2.0"}


def test_an_override_can_ask_for_int8_where_the_policy_would_not(transformer: fx.GraphModule) -> None:
    settled = planning.choose_plan(transformer, spec("static", overrides=[{"layer": "head", "precision": "int8"}]))
    assert "head" in settled.int8_layers
    assert "head" not in settled.float_layers
    assert settled.asked_layers == {"head"}


def test_the_limits_of_overridden_weights_follow_their_own_qscheme(convolutional: fx.GraphModule) -> None:
    """Affine weights may use -128; those that were asked for stay."""
    overrides = [{"layer": "fc", "weight": {"qscheme": "per_channel_affine"}}]
    free = planning.choose_plan(convolutional, spec("static", overrides=overrides))
    assert (free.settings.weight.quant_min, free.settings_of("fc").weight.quant_min) == (-127, -128)
    bound = planning.choose_plan(convolutional, spec("static", overrides=overrides, weight={"quant_min": -64}))
    assert bound.settings_of("fc").weight.quant_min == -64


@pytest.mark.parametrize("override", [
    {"weight": {"observer": "minmax", "qscheme": "per_channel_symmetric"}},
    {"weight": {"quant_min": 9, "quant_max": 3}},
    {"activation": {"quant_min": 9, "quant_max": 3}},
    {"weight": {"quant_min": 1}},
    {"activation": {"quant_min": 1}},
])  # fmt: skip
def test_an_override_that_contradicts_itself_is_refused(
    convolutional: fx.GraphModule, override: dict[str, Any]
) -> None:
    with pytest.raises(SpecInvalid, match="An override of"):
        planning.choose_plan(convolutional, spec("static", overrides=[{"layer": "fc", **override}]))


def test_a_table_is_int8_and_its_indices_are_no_floats() -> None:
    """They were observed, the converted model failed, and every operator but Linears was given up."""
    module = nn.Sequential(nn.Embedding(10, 16), nn.Linear(16, 64), nn.Linear(64, 64))
    settled = plan(raised(module, torch.randint(10, (3, 4))), spec("static"))
    assert (settled.operators, settled.notes, settled.float_layers) == ("all", (), {})
    assert settled.int8_layers == {"0", "1", "2"}


def test_a_maximum_over_a_bag_stays_in_float() -> None:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(10, 8, mode="max")
            self.fc = nn.Linear(8, 64)
            self.head = nn.Linear(64, 64)

        def forward(self, words: Tensor) -> Tensor:
            return self.head(torch.relu(self.fc(self.bag(words))))

    settled = plan(raised(Bags(), torch.randint(10, (3, 4))), spec("static"))
    assert "maximum over a bag" in settled.float_layers["bag"]
    assert {"fc", "head"} <= settled.int8_layers


def test_what_seven_bits_leave_of_a_limit_is_what_is_told(convolutional: fx.GraphModule) -> None:
    """Kernels of fbgemm take 7 bits; an override may ask for all 8, and then has the limit that was asked."""
    overrides = [
        {"layer": "layer1.0", "activation": {"reduce_range": False}},
        {"layer": "fc", "activation": {"observer": "minmax", "quant_max": 200}},
    ]
    asked = spec("static", qengine="fbgemm", activation={"quant_max": 250}, overrides=overrides)
    settled = planning.choose_plan(convolutional, asked)
    assert settled.resolved()["activation"]["quant_max"] == 127
    assert settled.settings_of("layer1.0").activation.quant_max == 250
    assert settled.settings_of("fc").activation.quant_max == 127


def test_an_override_by_name_keeps_layers_in_float(convolutional: fx.GraphModule) -> None:
    settled = plan(convolutional, spec("static", overrides=[{"layer": "layer1.*"}]))
    assert settled.int8_layers.isdisjoint({"layer1.0"})
    assert settled.float_layers["layer1.0"] == "overridden: layer layer1.*"
    assert "layer2.0" in settled.int8_layers


@pytest.mark.parametrize("op", ["Conv2d", "conv2d", "BatchNorm2d"])
def test_an_override_by_type_keeps_the_fused_group_in_float(convolutional: fx.GraphModule, op: str) -> None:
    settled = plan(convolutional, spec("static", overrides=[{"op": op}]))
    assert settled.int8_layers.isdisjoint({"layer1.0", "layer2.0"})
    assert "fc" in settled.int8_layers


def test_an_override_that_matches_nothing_names_what_is_near(convolutional: fx.GraphModule) -> None:
    with pytest.raises(SpecInvalid, match=r"overrides\[0\].*'layer3\.0'.*layer1\.0"):
        plan(convolutional, spec("static", overrides=[{"layer": "layer3.0"}]))


def test_a_model_without_weights_has_nothing_to_quantize() -> None:
    with pytest.raises(NothingToQuantize):
        plan(raised(nn.Sequential(nn.ReLU(), nn.Softmax(1)), torch.randn(2, 3)), spec("static"))


def test_dynamic_has_nothing_for_a_network_of_convolutions() -> None:
    with pytest.raises(NothingToQuantize, match="static") as caught:
        plan(raised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.randn(2, 3, 8, 8)), spec("dynamic"))
    assert "Try static or qat" in (caught.value.hint or "")


def test_everything_overridden_leaves_nothing_to_quantize(convolutional: fx.GraphModule) -> None:
    with pytest.raises(NothingToQuantize, match="overridden"):
        plan(convolutional, spec("static", overrides=[{"layer": "*"}]))


def test_a_kernel_that_computes_something_else_is_found_and_left_in_float() -> None:
    """In torch 2.13 the transposed convolutions of onednn with 16 inputs and 4 outputs are wrong."""
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.ConvTranspose2d(16, 4, 2, stride=2))
    settled = plan(raised(module, torch.randn(2, 3, 8, 8)), spec("static", qengine="onednn"))
    assert "kernel is wrong" in settled.float_layers["2"]
    assert settled.int8_layers == {"0"}


def test_the_wrong_kernel_of_a_prelu_is_found_too() -> None:
    """In torch 2.13 `quantized::prelu` is wrong where all slopes are 0.25, as they are at first: SQNR was 3 dB."""
    settled = plan(raised(nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8)), torch.randn(2, 3, 8, 8)), spec("static"))
    assert "kernel is wrong" in settled.float_layers["1"]
    assert settled.int8_layers == {"0"}


def test_a_layer_that_cannot_be_converted_stays_in_float_and_the_others_do_not() -> None:
    """In onednn there is none with output padding."""
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 8, 3, 2, output_padding=1))
    settled = plan(raised(module, torch.randn(2, 3, 8, 8)), spec("static", qengine="onednn"))
    assert "output_padding" in settled.float_layers["2"]
    assert settled.int8_layers == {"0"}
    assert settled.operators != "weighted"


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.up = nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 16, 3, 2, padding=1, output_padding=1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.up(torch.relu(self.conv(x)))
        return found


@torch.no_grad()
def test_a_network_of_transposed_convolutions_gets_kernels_that_can_compute_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of onednn know no output padding, those of x86 do."""
    monkeypatch.setattr(choosing_kernels, "has_vnni", lambda: True)
    x = torch.randn(8, 3, 8, 8)
    model = raised(Decoder(), x[:2])
    settled = plan(model, spec("static"))
    assert settled.qengine == "x86"
    assert settled.spec.qengine == "auto"
    assert settled.barred == {"onednn"}, "it is not tried again when the fastest kernels are looked for"
    assert settled.int8_layers >= {"conv", "up"}
    assert "cannot compute up" in settled.notes[-1]
    settled = settled.with_observer("minmax")
    prepared = prepare(model, settled, (x,))
    prepared(x)
    assert sqnr_db(model(x)[0], convert(prepared, settled)(x)[0]) > 25


@pytest.mark.skipif(not has_vnni(), reason="without VNNI the plan takes other kernels than onednn's to begin with")
def test_a_generator_of_transposed_convolutions_gets_the_kernels_that_can_under_auto() -> None:
    """With those of onednn nothing of it would be int8, which is refused where the spec insists on them."""
    up = [nn.ConvTranspose2d(64, 32, 4, 1, 0), nn.BatchNorm2d(32), nn.ReLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1)]
    model = raised(nn.Sequential(*up).eval(), torch.randn(2, 64, 1, 1))
    settled = plan(model, spec("static"))
    assert settled.qengine in {"x86", "fbgemm"}
    assert len(settled.int8_layers) == 2
    with pytest.raises(NothingToQuantize, match="onednn kernel is wrong"):
        plan(model, spec("static", qengine="onednn"))


@pytest.mark.parametrize("override", [
    {"layer": "layer1.*"}, {"layer": "layer2.*"}, {"op": "add"}, {"layer": "fc"}, {"op": "Conv2d"}, {"op": "mean"},
])  # fmt: skip
def test_float_and_int8_branches_join_whatever_is_left_in_float(
    convolutional: fx.GraphModule, override: dict[str, str]
) -> None:
    """FX's own convert failed where a float branch met an int8 addition."""
    x = torch.randn(16, 3, 8, 8)
    settled = plan(convolutional, spec("static", overrides=[override]))
    prepared = prepare(convolutional, settled, (x,))
    prepared(x)
    converted = convert(prepared, settled)
    with torch.no_grad():
        assert sqnr_db(convolutional(x)[0], converted(x)[0]) > 20
    for name, precision in precisions(convolutional, converted).items():
        assert (precision == "int8") == (name in settled.int8_layers)


def test_preparing_and_converting_leave_what_they_are_given(convolutional: fx.GraphModule) -> None:
    x = torch.randn(4, 3, 8, 8)
    before = convolutional(x)[0]
    settled = plan(convolutional, spec("static"))
    prepared = prepare(convolutional, settled, (x,))
    observed = prepared(x)[0]
    convert(prepared, settled)
    quantize_dynamic(convolutional, plan(convolutional, spec("dynamic")))
    assert torch.equal(convolutional(x)[0], before)
    assert torch.equal(prepared(x)[0], observed)


def test_training_moves_weights_until_batch_norm_and_observers_are_frozen(convolutional: fx.GraphModule) -> None:
    x = torch.randn(8, 3, 8, 8)
    settled = plan(convolutional, spec("qat"))
    prepared = prepare_qat(convolutional, settled, (x,))
    assert all(parameter.requires_grad for parameter in prepared.parameters())
    prepared(x)[0].square().mean().backward()
    gradients = [parameter.grad for parameter in prepared.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    freeze_observers(prepared)
    freeze_batch_norm(prepared)
    before = {name: buffer.clone() for name, buffer in prepared.named_buffers()}
    prepared(3 * x)
    assert all(torch.equal(buffer, before[name]) for name, buffer in prepared.named_buffers())


def test_the_frozen_module_runs_at_any_batch_size(convolutional: fx.GraphModule) -> None:
    x = torch.randn(2, 3, 8, 8)
    settled = plan(convolutional, spec("static"))
    prepared = prepare(convolutional, settled, (x,))
    prepared(x)
    converted = convert(prepared, settled)
    frozen = freeze(converted, (x,))
    for batch in (1, 2, 7):
        other = torch.randn(batch, 3, 8, 8)
        assert torch.equal(frozen(other)[0], converted(other)[0])


@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_a_layer_that_is_called_often_is_stored_once(method: str, tmp_path: Path) -> None:
    class Repeats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(256, 256)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(6):
                x = torch.tanh(self.linear(x))
            return x

    x = torch.randn(4, 256)
    module = raised(Repeats(), x)
    settled = plan(module, spec(method))
    if method == "dynamic":
        quantized = quantize_dynamic(module, settled)
    else:
        prepared = prepare(module, settled, (x,))
        prepared(x)
        quantized = convert(prepared, settled)
    torch.jit.save(freeze(quantized, (x,)), str(tmp_path / "int8.pt"))
    weight_bytes = 256 * 256
    assert weight_bytes < (tmp_path / "int8.pt").stat().st_size < 2 * weight_bytes
    assert sqnr_db(module(x)[0], torch.jit.load(tmp_path / "int8.pt")(x)[0]) > 20


def precisions(raised: fx.GraphModule, quantized: nn.Module) -> dict[str, LayerPrecision]:
    """Of the layers with weights, by name."""
    modules = dict(quantized.named_modules(remove_duplicate=False))
    return {
        group.name: precision_of(modules.get(group.name))
        for group in groups(raised)
        if group.module is not None and any(True for _ in group.module.parameters())
    }


def sqnr_db(wanted: Tensor, found: Tensor) -> float:
    return float(20 * torch.log10(wanted.norm() / (wanted - found).norm()))


def test_every_qengine_of_this_torch_holds_a_scale_a_channel_and_asking_leaves_the_one_that_is_selected() -> None:
    selected = torch.backends.quantized.engine
    supported = [each for each in torch.backends.quantized.supported_engines if each != "none"]
    assert {each: int8_kernels.holds_per_channel(each) for each in supported} == dict.fromkeys(supported, True)
    assert torch.backends.quantized.engine == selected


def test_kernels_that_refuse_to_pack_a_scale_a_channel_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("Per channel quantization is disabled in this build")

    monkeypatch.setattr(torch.ops.quantized, "conv2d_prepack", refuse)
    assert not int8_kernels.holds_per_channel.__wrapped__(torch.backends.quantized.engine)


def test_weights_left_at_auto_follow_kernels_that_hold_a_scale_a_tensor(
    convolutional: fx.GraphModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing_kernels, "holds_per_channel", lambda qengine: qengine != "qnnpack")
    overrides = [{"layer": "fc", "weight": {"quant_max": 100}}]
    settled = planning.choose_plan(convolutional, spec("static", qengine="qnnpack", overrides=overrides))
    assert settled.notes == ("weights have one scale a tensor: this worker's qnnpack kernels hold none a channel",)
    for weight in (settled.settings.weight, settled.settings_of("fc").weight):
        assert (weight.observer, weight.qscheme) == ("minmax", "per_tensor_symmetric")
    other = planning.choose_plan(convolutional, spec("static", qengine="x86"))
    assert (other.settings.per_channel, other.notes) == (True, ())
    asked = planning.choose_plan(convolutional, spec("static", qengine="qnnpack", weight={"observer": "minmax"}))
    assert asked.notes == ()


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        ({"weight": {"qscheme": "per_channel_symmetric"}}, "weight.qscheme"),
        (
            {"overrides": [{"layer": "fc", "weight": {"observer": "per_channel_minmax"}}]},
            "overrides[0].weight.observer",
        ),
    ],
)
def test_a_scale_a_channel_asked_of_kernels_that_hold_none_is_refused(
    convolutional: fx.GraphModule, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], place: str
) -> None:
    monkeypatch.setattr(choosing_kernels, "holds_per_channel", lambda qengine: qengine != "qnnpack")
    with pytest.raises(SpecInvalid) as refused:
        planning.choose_plan(convolutional, spec("static", qengine="qnnpack", **asked))
    assert f"qnnpack kernels hold one scale a tensor, and {place} asks" in str(refused.value)
    assert refused.value.code == "spec_invalid"
    assert "another qengine" in (refused.value.hint or "")
