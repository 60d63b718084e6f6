"""What a spec asks for and kernels do not do: left in float and told by name, or refused before any work is done."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from shared.errors import SpecInvalid
from tests.unit.worker.quantization.test_planning import raised, spec, sqnr_db
from worker.quantization import choosing_kernels, convert, plan, prepare, trying
from worker.quantization.planning import choose_plan


class Gated(nn.Module):
    """A convolution and a Linear, and between them two operators without an int8 kernel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Linear(8 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc(F.softmax(self.norm(self.conv(x)), 1).flatten(1))
        return found


def images() -> Tensor:
    return torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("override", [{"op": "softmax"}, {"layer": "norm"}, {"layer": "n*", "op": "GroupNorm"}])
def test_int8_for_nothing_but_operators_without_a_kernel_is_refused_by_name(override: dict[str, str]) -> None:
    model = raised(Gated(), images()[:2])
    with pytest.raises(
        SpecInvalid, match=r"overrides\[1\] asks for int8, and (softmax|norm) cannot have it: torch has no"
    ):
        plan(
            model, spec("static", overrides=[{"op": "Conv2d", "precision": "int8"}, {**override, "precision": "int8"}])
        )


def test_of_what_an_override_holds_for_what_has_no_kernel_is_told_by_name() -> None:
    chosen = plan(raised(Gated(), images()[:2]), spec("static", overrides=[{"layer": "*", "precision": "int8"}]))
    assert chosen.int8_layers >= {"conv", "fc"}
    (note,) = chosen.notes
    assert note.startswith("in float although an override asks for int8: norm (torch has no int8 kernel")
    assert "softmax (" in note
    assert "flatten" not in note, "int8 passes it as it is"


class Brittle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second, self.last = (
            nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 4),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.second(self.norm(self.first(x))))
        return found


@pytest.mark.parametrize("blamed", ["", "elsewhere"])
def test_a_layer_that_brings_others_down_is_found_left_in_float_and_told_by_name(
    blamed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch fails: somewhere, and with a message that names no layer, or another."""
    own = trying._faults

    def fail(*args: Any) -> list[trying.Fault]:
        if "norm" in args[1].int8_layers:
            return [trying.Fault(blamed, "promoteTypes is not handled")]
        return own(*args)

    monkeypatch.setattr(trying, "_faults", fail)
    rows = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    asked = [{"layer": "*", "precision": "int8"}]
    chosen = plan(raised(Brittle(), rows[:2]), spec("static", overrides=asked))
    assert chosen.int8_layers == {"first", "second", "last"}
    assert "norm (promoteTypes is not handled)" in chosen.notes[-1]


class Residual(nn.Module):
    """A norm in int8 whose output passes a dropout and is read by another norm, and by an addition in float."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.dropout = nn.Linear(16, 16), nn.LayerNorm(16), nn.Dropout(0.1)
        self.again, self.second, self.last = nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.dropout(self.norm(self.first(x)))
        found: Tensor = self.last(kept + self.second(self.again(kept)))
        return found


class Slopes(nn.Module):
    """A PReLU that stays in float, for a GELU tells of a transformer, between two convolutions in int8."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.slopes, self.second = nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.second(self.slopes(self.first(x))))


@pytest.mark.parametrize(
    ("module", "overrides", "x"),
    [
        (Residual, [{"op": "LayerNorm", "precision": "int8"}], torch.randn(16, 6, 16)),
        (Slopes, [], torch.randn(16, 3, 8, 8)),
    ],
)
@torch.no_grad()
def test_a_module_in_float_between_int8_layers_takes_nothing_away_from_others(
    module: Callable[[], nn.Module], overrides: list[dict[str, str]], x: Tensor
) -> None:
    model = raised(module(), x[:2])
    chosen = choose_plan(model, spec("static", qengine="onednn", overrides=overrides))
    prepared = prepare(model, chosen, (x[:2],))
    prepared(x)
    assert sqnr_db(model(x)[0], convert(prepared, chosen)(x)[0]) > 25


AFFINE = {"observer": "per_channel_minmax", "qscheme": "per_channel_affine"}


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"weight": AFFINE}, "weight.qscheme"),
        ({"overrides": [{"op": "Linear", "weight": {"qscheme": "per_tensor_affine"}}]}, "overrides[0].weight.qscheme"),
    ],
)
def test_affine_weights_are_refused_for_kernels_that_take_none_and_auto_names_others(
    settings: dict[str, Any], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing_kernels, "has_vnni", lambda: True)
    model = raised(Brittle(), torch.randn(2, 16))
    with pytest.raises(SpecInvalid, match=re.escape(f"symmetric weights only, and {place} asks for affine")):
        choose_plan(model, spec("static", qengine="onednn", **settings))
    chosen = choose_plan(model, spec("static", **settings))
    assert chosen.qengine == "x86"
    assert chosen.settings.activation.reduce_range is True
    assert choose_plan(model, spec("static")).qengine == "onednn"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ({"layer": "frist"}, "no layer 'frist'. Near it: first"),
        ({"op": "Linera"}, "no op 'Linera'. Near it: Linear"),
        ({"layer": "first", "op": "Linera"}, "no op 'Linera'"),
        ({"layer": "frist", "op": "Linear"}, "no layer 'frist'"),
        (
            {"layer": "norm", "op": "Linear"},
            "layer 'norm' matches LayerNorm, and op 'Linear' matches first, second, last, but no layer matches both",
        ),
    ],
)
def test_an_override_that_matches_nothing_says_which_half_matched_what(override: dict[str, str], told: str) -> None:
    with pytest.raises(SpecInvalid, match=re.escape(told)):
        choose_plan(raised(Brittle(), torch.randn(2, 16)), spec("static", overrides=[override]))
