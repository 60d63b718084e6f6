"""Functions under their layers' names: what is computed stays, and every exported operator says whose it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from worker.exporting import export_onnx, trace
from worker.exporting.rewriting import LAYER
from worker.quantization import input_specs, layer_of_scopes, output_names, raise_program, with_named_functions


class Functions(nn.Module):
    """Functions and methods whose layers are called as a Module's own methods are, or as a module that holds others."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.block(x).float(), x.double().float(), torch.sigmoid(x).to(torch.float32)], 1).abs()


@pytest.fixture
def program() -> torch.export.ExportedProgram:
    torch.manual_seed(0)
    return torch.export.export(
        Functions().eval(), (torch.randn(2, 4),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )


def test_it_computes_the_same_with_the_same_weights(program: torch.export.ExportedProgram) -> None:
    raised = raise_program(program)
    named, x = with_named_functions(raised), torch.randn(3, 4)
    assert all(torch.equal(*both) for both in zip(raised(x), named(x), strict=True))
    assert dict(named.named_parameters()).keys() == dict(raised.named_parameters()).keys()
    assert {id(each) for each in named.parameters()} == {id(each) for each in raised.parameters()}


def test_every_node_of_the_file_says_of_which_layer_it_is(program: torch.export.ExportedProgram) -> None:
    raised, specs = raise_program(program), input_specs(program)
    layers = {str(node.meta["layer"]) for node in raised.graph.nodes if node.op.startswith("call_")}
    model = export_onnx(trace(raised, (torch.randn(2, 4),), specs), specs, output_names(program))
    told = {node.op_type: node.metadata_props.get(LAYER) for node in model.graph}
    assert set(told.values()) <= layers
    assert (told["Gemm"], told["Relu"], told["Sigmoid"]) == ("block.0", "block.1", "sigmoid")


def test_scopes_without_a_module_name_no_layer() -> None:
    assert layer_of_scopes(["", "add"]) is None
    assert layer_of_scopes(["", "_empty_nn_module_stack_from_metadata_hook", "shape"]) is None
    assert layer_of_scopes(["", "stem.0", "stem.0.layer", "conv2d"]) == "stem.0"
    assert layer_of_scopes(["", "octavo_functions.stem/relu/", "relu"]) == "stem.relu"
