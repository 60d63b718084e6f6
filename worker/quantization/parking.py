"""Weights that wait in a file while something else needs their place.

A job holds the float model, the prepared model whose folded weights are its own, and int8 models. It never needs all of
them at once.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from torch import UntypedStorage, nn

from worker.quantization.copying import collect_garbage

#: Below it the place is not worth the file.
_LEAST_BYTES = 16 * 1024**2


@contextmanager
def parked(*modules: nn.Module, beside: Sequence[nn.Module] = ()) -> Iterator[None]:
    """Have the parameters and buffers of these modules in a temporary file until the end of the context.

    What the modules `beside` hold too stays. The tensors keep their identity and get their values back to the bit;
    using one meanwhile is an error of torch's (its storage is empty). Raises OSError when the file cannot be written.
    """
    kept = _storages(beside)
    storages = [storage for key, storage in _storages(modules).items() if key not in kept and storage.resizable()]
    if sum(storage.nbytes() for storage in storages) < _LEAST_BYTES:
        yield
        return
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile())
        sizes = [storage.nbytes() for storage in storages]
        for storage in storages:
            file.write(_bytes_of(storage))
            storage.resize_(0)
        stack.callback(_bring_back, storages, sizes, file)
        collect_garbage()
        yield


def _bring_back(storages: Sequence[UntypedStorage], sizes: Sequence[int], file: BinaryIO) -> None:
    file.seek(0)
    for storage, size in zip(storages, sizes, strict=True):
        storage.resize_(size)
        if file.readinto(_bytes_of(storage)) != size:  # type: ignore[attr-defined]  # a buffered reader has it
            raise OSError("The file of parked weights came back short.")


def _bytes_of(storage: UntypedStorage) -> memoryview:
    # By address: a storage that numpy has once looked at can never be resized again.
    return memoryview((ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())).cast("B")


def _storages(modules: Sequence[nn.Module]) -> dict[int, UntypedStorage]:
    """By address: tensors that are views of one storage, or shared by two modules, are counted once."""
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    found = [tensor.untyped_storage() for tensor in tensors if tensor.device.type == "cpu" and not tensor.is_quantized]
    return {storage.data_ptr(): storage for storage in found if storage.nbytes()}
