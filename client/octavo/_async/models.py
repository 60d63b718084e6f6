"""`client.models`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo._async.transport import AsyncTransport
from octavo._async.uploads import upload_file
from octavo._concurrency import async_run_blocking
from octavo._types import Model

if TYPE_CHECKING:
    import torch


class AsyncModels:
    """The models on the server."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def upload(
        self,
        model: torch.nn.Module | str | os.PathLike[str],
        example_inputs: Any = None,
        *,
        dynamic_batch: bool = True,
        name: str | None = None,
        progress: bool | None = None,
    ) -> Model:
        """Upload a live module, which is exported here to a .pt2, or a .pt2 or .onnx file.

        Args:
            model: an `nn.Module`, or the path of what `torch.export.save` wrote, or of an ONNX file, which can be
                measured but not quantized.
            example_inputs: for a module: a tensor, a tuple of tensors, or a dict of `forward`'s keywords; the first
                dimension of each is the batch.
            dynamic_batch: leave the batch size open. False fixes it at that of the example.
            name: for people; without it the class's or the file's name.
            progress: a bar on stderr; None: if somebody watches.

        Raises:
            ExportFailed: torch.export cannot export the module.
            APIError: the server did not take it.
        """
        if isinstance(model, str | os.PathLike):
            path = Path(model)
            return await self._send(path, name=name or path.stem, filename=path.name, progress=progress)
        from octavo._export import export_module  # noqa: PLC0415  # torch is there only if a module is

        name = name or type(model).__name__
        with tempfile.TemporaryDirectory(prefix="octavo-") as folder:
            path = Path(folder) / "model.pt2"
            await async_run_blocking(export_module, model, example_inputs, path, dynamic_batch=dynamic_batch)
            return await self._send(path, name=name, filename=f"{name}.pt2", progress=progress)

    async def _send(self, path: Path, *, name: str, filename: str, progress: bool | None) -> Model:
        sent = await upload_file(self._transport, "model", path, name=name, filename=filename, progress=progress)
        return Model.model_validate(sent)

    async def get(self, model: Model | str) -> Model:
        """One model, by its id."""
        return Model.model_validate(await self._transport.json("GET", f"/v1/models/{_id(model)}"))

    async def list(self, *, limit: int | None = None) -> AsyncIterator[Model]:
        """The models, newest first; pages are fetched as they are needed."""
        async for entry in self._transport.pages("/v1/models", limit=limit):
            yield Model.model_validate(entry)

    async def delete(self, model: Model | str) -> None:
        """Delete a model; refused with a `ConflictError` while an unfinished job needs it."""
        await self._transport.request("DELETE", f"/v1/models/{_id(model)}")


def _id(model: Model | str) -> str:
    return model if isinstance(model, str) else model.id
