"""What all runtimes offer alike, on a small float model: outputs, a call to be timed, kernels, and errors of ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from shared.errors import ModelFailed
from shared.quantization_spec import RUNTIMES, Runtime
from worker.exporting import export_onnx, save, trace
from worker.quantization import freeze, input_specs, output_names, raise_program
from worker.runtimes import Session, SessionSettings, open_session

X = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[Runtime, Path], Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()
    program = torch.export.export(network, (X[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    raised = raise_program(program)
    folder = tmp_path_factory.mktemp("float")
    onnx, script = folder / "model.onnx", folder / "model.pt"
    specs = input_specs(program)
    save(export_onnx(trace(raised, (X[:2],), specs), specs, output_names(program)), onnx)
    torch.jit.save(freeze(raised, (X[:2],)), script)
    with torch.inference_mode():
        return {"torch": script, "onnxruntime": onnx, "openvino": onnx}, network(X)


@pytest.fixture(params=RUNTIMES)
def session(request: pytest.FixtureRequest, files: tuple[dict[Runtime, Path], Tensor]) -> Session:
    return open_session(request.param, files[0][request.param], SessionSettings())


def test_it_gives_what_torch_gives(session: Session, files: tuple[dict[Runtime, Path], Tensor]) -> None:
    (found,) = session.run([X])
    assert torch.allclose(found, files[1], atol=1e-4)


def test_outputs_stay_what_they_were_when_it_is_run_again(session: Session) -> None:
    (first,) = session.run([X])
    kept = first.clone()
    session.run([-X])
    assert torch.equal(first, kept)


def test_a_bound_call_needs_no_arguments(session: Session) -> None:
    with torch.inference_mode():
        assert session.bound([X])() is not None


def test_it_takes_other_batches_after_a_bound_call(session: Session, files: tuple[dict[Runtime, Path], Tensor]) -> None:
    with torch.inference_mode():
        session.bound([X[:1]])()
        assert torch.allclose(session.run([X])[0], files[1], atol=1e-4)


def test_a_float_model_runs_on_float_kernels(session: Session) -> None:
    kernels = session.kernels()
    assert (len(kernels.int8), len(kernels.floating), kernels.share) == (0, 2, 0.0)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_file_that_is_none_is_refused_in_words_of_ours(runtime: Runtime, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(ModelFailed, match=r"does not take broken\.onnx") as raised:
        open_session(runtime, broken, SessionSettings())
    assert str(tmp_path) not in raised.value.message, "where it lies on the node is nobody's business"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_inputs_that_do_not_fit_are_refused_in_words_of_ours(
    runtime: Runtime, files: tuple[dict[Runtime, Path], Tensor]
) -> None:
    session = open_session(runtime, files[0][runtime], SessionSettings())
    with pytest.raises(ModelFailed, match="raised"):
        session.run([X.flatten(1)])
