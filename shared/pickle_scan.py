"""What a pickle would import and call, found by reading its opcodes and never by unpickling.

`refuse_unless_tensors` is an allow-list: the opcodes that torch's own restricted unpickler knows, less BUILD and
NEWOBJ, and the globals that rebuild plain tensors. Whatever passes it can call only those, whoever unpickles it.
"""

from __future__ import annotations

import pickletools
import re

# torch._weights_only_unpickler reads these, and BUILD and NEWOBJ, which plain tensors do not need.
_TENSOR_OPCODES = frozenset(
    {
        "PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BINPERSID",
        "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE",
        "SHORT_BINSTRING", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS",
        "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
    }
)  # fmt: skip
_TENSOR_GLOBALS = re.compile(
    r"collections OrderedDict"
    r"|torch Tensor|torch device|torch Size"
    r"|torch (float16|float32|float64|bfloat16|u?int8|u?int16|u?int32|u?int64|bool)"
    r"|torch (Float|Double|Half|BFloat16|Byte|Char|Short|Int|Long|Bool)Storage|torch\.storage UntypedStorage"
    r"|torch\._utils (_rebuild_tensor_v2|_rebuild_parameter)|torch\._tensor _rebuild_from_type_v2"
)
# Modules whose objects stand in a state_dict or a checkpoint; a global of any other module is somebody's class.
_STATE_DICT_MODULES = re.compile(
    r"collections|torch|torch\._utils|torch\._tensor|torch\.storage|torch\.serialization|torch\.nn\.parameter"
    r"|numpy(\..*)?|_codecs|builtins|__builtin__|copy_reg|copyreg|argparse|pathlib"
)
_MAX_PICKLES = 8


class PickleUnsafe(Exception):
    """The pickle does something other than rebuilding plain tensors."""


def refuse_unless_tensors(pickle: bytes) -> None:
    """Pass a pickle of plain tensors in tuples, lists and dicts; raise PickleUnsafe on anything else."""
    try:
        for opcode, _, position in pickletools.genops(pickle):
            if opcode.name not in _TENSOR_OPCODES:
                raise PickleUnsafe(f"it uses the pickle opcode {opcode.name}")
            if opcode.name == "GLOBAL":
                _refuse_unless_tensor_global(pickle, (position or 0) + 1)
    except (ValueError, IndexError, OverflowError) as error:
        raise PickleUnsafe("it is not a pickle that can be read") from error


def _refuse_unless_tensor_global(pickle: bytes, start: int) -> None:
    # The raw bytes, because pickletools undoes escapes that an unpickler takes literally.
    module, name, _ = (*pickle[start : start + 500].split(b"\n", 2), b"", b"", b"")[:3]
    dotted = f"{module.decode(errors='replace')} {name.decode(errors='replace')}"
    if not _TENSOR_GLOBALS.fullmatch(dotted):
        raise PickleUnsafe(f"it names {dotted.replace(' ', '.')[:200]!r}")


def holds_a_class(head: bytes) -> bool:
    """Whether the pickles at the start of `head` name a class beyond tensors and containers, as a whole module does.

    Tolerant, because it only chooses the words of a refusal: `head` may be cut off, and legacy torch.save files hold
    several pickles in a row.
    """
    return any(not _STATE_DICT_MODULES.fullmatch(module) for module in _modules_named(head))


def _modules_named(head: bytes) -> set[str]:
    modules: set[str] = set()
    start = 0
    for _ in range(_MAX_PICKLES):
        strings: list[str] = []
        stop = None
        try:
            for opcode, argument, position in pickletools.genops(head[start:]):
                if opcode.name in {"GLOBAL", "INST"}:
                    modules.add(str(argument).split(" ")[0])
                elif opcode.name == "STACK_GLOBAL" and len(strings) >= 2:
                    modules.add(strings[-2])
                elif isinstance(argument, str):
                    strings.append(argument)
                elif opcode.name == "STOP":
                    stop = position
        except Exception:  # noqa: BLE001 - genops raises whatever the garbage makes it raise
            break
        if stop is None:
            break
        start += stop + 1
    return modules
