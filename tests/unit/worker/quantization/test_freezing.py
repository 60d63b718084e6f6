"""What is frozen takes any batch that the program takes, or is refused in words of ours."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.errors import ModelUnsupported
from worker.quantization import freeze, raise_program


class Sized(nn.Module):
    """Something that is given the number of samples, behind a Linear."""

    def __init__(self, sized: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 6)
        self.sized = sized

    def forward(self, x: Tensor) -> Tensor:
        return self.sized(self.linear(x))


def raised(sized: Callable[[Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    dynamic_batch = ({0: torch.export.Dim.DYNAMIC},)
    return raise_program(torch.export.export(Sized(sized).eval(), (torch.randn(2, 8),), dynamic_shapes=dynamic_batch))


@pytest.mark.parametrize(
    "sized",
    [
        pytest.param(lambda x: x + torch.ones(1, 6).broadcast_to(x.shape[0], 6), id="broadcast_to"),
        pytest.param(lambda x: torch.eye(x.shape[0]) @ x, id="eye"),
        pytest.param(lambda x: x / torch.tensor(x.shape[0]).float(), id="scalar_tensor"),
        pytest.param(lambda x: functional.affine_grid(x.view(-1, 2, 3), [x.shape[0], 1, 4, 4]), id="affine_grid"),
    ],
)
def test_what_is_given_the_number_of_samples_is_traced_with_it(sized: Callable[[Tensor], Tensor]) -> None:
    module = raised(sized)
    frozen = freeze(module, (torch.randn(2, 8),))
    x = torch.randn(5, 8)
    with torch.no_grad():
        torch.testing.assert_close(frozen(x), module(x))


def test_what_torch_cannot_trace_is_refused_in_words_of_ours() -> None:
    module = raised(lambda x: x.new_empty(x.shape[0], 1).zero_() + x)
    with pytest.raises(ModelUnsupported, match="TorchScript does not take the model") as refused:
        freeze(module, (torch.randn(2, 8),))
    assert "export with a fixed batch" in str(refused.value.hint)
