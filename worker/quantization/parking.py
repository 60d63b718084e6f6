"""Weights that wait in a file while something else needs their place.

A job holds the float model, the prepared model whose folded weights are its own, and int8 models. It never needs all of
them at once.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import torch
from torch import Tensor, UntypedStorage, nn

from worker.quantization.copying import WORTH_BYTES, collect_garbage


@contextmanager
def parked(*modules: nn.Module, beside: Sequence[nn.Module] = ()) -> Iterator[None]:
    """Have the parameters and buffers of these modules in a temporary file until the end of the context.

    What the modules `beside` hold too stays. The tensors are the same ones afterwards, with their values to the bit; in
    the meantime they are empty. Raises OSError when the file cannot be written.
    """
    kept = {_key(tensor) for tensor in _tensors(beside)}
    places = [_Place(tensor) for tensor in _tensors(modules) if _key(tensor) not in kept]
    if sum({place.key: place.bytes for place in places}.values()) < WORTH_BYTES:
        yield
        return
    with tempfile.TemporaryFile() as file:
        written: dict[int, int] = {}
        for place in places:
            if place.key not in written:
                written[place.key] = place.bytes
                file.write(_bytes_of(place.tensor.untyped_storage()))
            place.clear()
        collect_garbage()
        try:
            yield
        finally:
            collect_garbage()  # what had their place
            file.seek(0)
            storages = {key: _read(file, size) for key, size in written.items()}
            for place in places:
                place.fill(storages[place.key])


class _Place:
    """Where a tensor's values were, and how they lay there."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.key = _key(tensor)
        self.bytes = tensor.untyped_storage().nbytes()
        self._geometry = (tensor.storage_offset(), tensor.shape, tensor.stride())

    def clear(self) -> None:
        self.tensor.data = torch.empty(0, dtype=self.tensor.dtype)

    def fill(self, storage: UntypedStorage) -> None:
        self.tensor.data = torch.empty(0, dtype=self.tensor.dtype).set_(storage, *self._geometry)


def _read(file: BinaryIO, size: int) -> UntypedStorage:
    storage = UntypedStorage(size)
    if file.readinto(_bytes_of(storage)) != size:  # type: ignore[attr-defined]  # a buffered reader has it
        raise OSError("The file of parked weights came back short.")
    return storage


def _bytes_of(storage: UntypedStorage) -> memoryview:
    return memoryview((ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())).cast("B")


def _tensors(modules: Sequence[nn.Module]) -> list[Tensor]:
    """Each once, though several modules may hold it."""
    found = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    plain = [tensor for tensor in found if not tensor.is_quantized and tensor.untyped_storage().nbytes()]
    return list({id(tensor): tensor for tensor in plain}.values())


def _key(tensor: Tensor) -> int:
    """Tensors that lie in one storage have one."""
    return tensor.untyped_storage().data_ptr()
