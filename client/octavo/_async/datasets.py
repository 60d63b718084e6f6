"""`client.datasets`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from octavo._async.transport import AsyncTransport
from octavo._async.uploads import upload_file
from octavo._concurrency import async_run_blocking
from octavo._types import Dataset, Model


class AsyncDatasets:
    """The datasets on the server."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def upload(
        self,
        data: Any,
        labels: Any = None,
        *,
        name: str | None = None,
        model: Model | None = None,
        input_names: Sequence[str] | None = None,
        progress: bool | None = None,
    ) -> Dataset:
        """Upload named arrays, whose first axis is the sample, or a .npz or .safetensors file of them.

        Args:
            data: a dict from the model's input names to arrays, tensors or lists; one array; a tuple with an array for
                each input; a DataLoader, or any iterable, of batches `x`, `(x, y)` or dicts, which is read once, batch
                by batch, and never held in memory as a whole; or a path.
            labels: one for each sample, in the same order.
            name: for people; without it the file's name.
            model: names the inputs of what has no names of its own.
            input_names: likewise, by hand; without either they are called "0", "1", …
            progress: a bar on stderr; None: if somebody watches.

        Raises:
            ValueError: the arrays do not have the same number of samples, or none.
            TypeError: something is no numeric array.
            APIError: the server did not take it.
        """
        if isinstance(data, str | os.PathLike):
            if labels is not None:
                raise TypeError("a file carries its own labels: save them in it under the key 'labels'")
            path = Path(data)
            return await self._send(path, name=name or path.stem, filename=path.name, progress=progress)
        from octavo._arrays import write_dataset  # noqa: PLC0415  # numpy is there only if arrays are

        if input_names is None and model is not None:
            input_names = [spec.name for spec in model.inputs]
        with tempfile.TemporaryDirectory(prefix="octavo-") as folder:
            path = Path(folder) / "dataset.safetensors"
            await async_run_blocking(write_dataset, path, data, labels, input_names)
            filename = f"{name or 'dataset'}.safetensors"
            return await self._send(path, name=name, filename=filename, progress=progress)

    async def _send(self, path: Path, *, name: str | None, filename: str, progress: bool | None) -> Dataset:
        sent = await upload_file(self._transport, "dataset", path, name=name, filename=filename, progress=progress)
        return Dataset.model_validate(sent)

    async def get(self, dataset: Dataset | str) -> Dataset:
        """One dataset, by its id."""
        return Dataset.model_validate(await self._transport.json("GET", f"/v1/datasets/{_id(dataset)}"))

    async def list(self, *, limit: int | None = None) -> AsyncIterator[Dataset]:
        """The datasets, newest first; pages are fetched as they are needed."""
        async for entry in self._transport.pages("/v1/datasets", limit=limit):
            yield Dataset.model_validate(entry)

    async def delete(self, dataset: Dataset | str) -> None:
        """Delete a dataset; refused with a `ConflictError` while an unfinished job needs it."""
        await self._transport.request("DELETE", f"/v1/datasets/{_id(dataset)}")


def _id(dataset: Dataset | str) -> str:
    return dataset if isinstance(dataset, str) else dataset.id
