# Made by scripts/unasync.py from octavo/_async: change it there.
"""`client.models`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo._concurrency import run_blocking
from octavo._sync.transport import Transport
from octavo._sync.uploads import upload_file
from octavo._types import Model

if TYPE_CHECKING:
    import torch


class Models:
    """The models on the server."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(
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
            return self._send(path, name=name or path.stem, filename=path.name, progress=progress)
        from octavo._export import export_module  # noqa: PLC0415  # torch is there only if a module is

        name = name or type(model).__name__
        with tempfile.TemporaryDirectory(prefix="octavo-") as folder:
            path = Path(folder) / "model.pt2"
            run_blocking(export_module, model, example_inputs, path, dynamic_batch=dynamic_batch)
            return self._send(path, name=name, filename=f"{name}.pt2", progress=progress)

    def _send(self, path: Path, *, name: str, filename: str, progress: bool | None) -> Model:
        sent = upload_file(self._transport, "model", path, name=name, filename=filename, progress=progress)
        return Model.model_validate(sent)

    def get(self, model: Model | str) -> Model:
        """One model, by its id."""
        return Model.model_validate(self._transport.json("GET", f"/v1/models/{_id(model)}"))

    def list(self, *, limit: int | None = None) -> Iterator[Model]:
        """The models, newest first; pages are fetched as they are needed."""
        for entry in self._transport.pages("/v1/models", limit=limit):
            yield Model.model_validate(entry)

    def delete(self, model: Model | str) -> None:
        """Delete a model; refused with a `ConflictError` while an unfinished job needs it."""
        self._transport.request("DELETE", f"/v1/models/{_id(model)}")


def _id(model: Model | str) -> str:
    return model if isinstance(model, str) else model.id
