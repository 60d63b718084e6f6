"""Random inputs in the shape of a model's, for what must run without data. They say little about quality."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from worker.datasets import InMemorySamples
from worker.quantization import InputSpec

SYNTHETIC_SAMPLES = 64  #: where no dataset is given


def synthesise(raised: fx.GraphModule, specs: Sequence[InputSpec], samples: int, seed: int) -> InMemorySamples:
    """Random samples of the shape that the model was exported with.

    Floats are standard normal; integers lie below the size of the embedding that they index, else they are one.
    """
    return random_samples(specs, index_limits(raised), samples, seed)


def random_samples(
    specs: Sequence[InputSpec], limits: Sequence[int | None], samples: int, seed: int
) -> InMemorySamples:
    """The same for inputs whose integers lie below these limits."""
    generator = torch.Generator().manual_seed(seed)
    return InMemorySamples(
        tuple(_random(spec, limit, samples, generator) for spec, limit in zip(specs, limits, strict=True))
    )


def _random(spec: InputSpec, limit: int | None, samples: int, generator: torch.Generator) -> Tensor:
    shape = spec.with_batch(samples)
    if spec.dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(spec.dtype)
    if limit is None:  # a mask, most likely
        return torch.ones(shape, dtype=spec.dtype)
    return torch.randint(0, limit, shape, generator=generator).to(spec.dtype)


def index_limits(raised: fx.GraphModule) -> list[int | None]:
    """For each input in order, the size of the smallest embedding that it reaches; None if it reaches none."""
    modules = dict(raised.named_modules())
    return [_smallest_embedding(node, modules) for node in raised.graph.nodes if node.op == "placeholder"]


def _smallest_embedding(placeholder: fx.Node, modules: dict[str, nn.Module]) -> int | None:
    sizes = []
    seen: set[fx.Node] = set()
    waiting = deque(placeholder.users)
    while waiting:
        node = waiting.popleft()
        if node in seen:
            continue
        seen.add(node)
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Embedding):
            sizes.append(module.num_embeddings)
        elif module is None:  # indices pass through views and casts, and through no other module
            waiting.extend(node.users)
    return min(sizes, default=None)
