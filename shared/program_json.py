"""The JSON of an exported program: what it describes, and whether loading it could run code from it.

`torch.export.load` (2.13) trusts this text. From it come names that FX pastes into Python source and executes
(`torch/fx/graph.py`), expressions that sympy evaluates (`torch/_export/serde/serialize.py: _parse_sym_expr`), operators
found by walking attributes of `torch` (`deserialize_operator`), modules that pytree imports
(`torch/utils/_pytree.py: _defaultdict_deserialize, enum_object_hook`) and guards that are compiled
(`torch/export/_unlift.py: _convert_guards_code_to_fn`). Each is held against an allow-list here.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any, Final

from shared.errors import ModelCorrupt, ModelUnsafe, ModelUnsupported

SCHEMA_MAJOR: Final = 8

# torch/_export/serde/schema.py: ScalarType; the value in parentheses is the size of an element in bytes.
DTYPES: Final = {
    1: ("uint8", 1), 2: ("int8", 1), 3: ("int16", 2), 4: ("int32", 4), 5: ("int64", 8),
    6: ("float16", 2), 7: ("float32", 4), 8: ("float64", 8),
    9: ("complex32", 4), 10: ("complex64", 8), 11: ("complex128", 16), 12: ("bool", 1), 13: ("bfloat16", 2),
    28: ("uint16", 2), 29: ("float8_e4m3fn", 1), 30: ("float8_e5m2", 1), 31: ("float8_e4m3fnuz", 1),
    32: ("float8_e5m2fnuz", 1), 33: ("float8_e8m0fnu", 1), 34: ("uint32", 4), 35: ("uint64", 8),
}  # fmt: skip

# Each costs 60 bytes and more once it is parsed, and the parser lets no other thread run; a node has about 30.
_MAX_CONTAINERS = 3_000_000

_IDENTIFIER = re.compile(r"\w{0,500}", re.ASCII)
# FX writes these between quotes: a quote, a backslash or a line break would end them. No text holds a lone surrogate,
# and what turns the direction of writing makes a name look like another.
_NAME_CHARACTERS = r"[^\"'\\\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
_QUALIFIED_NAME = re.compile(_NAME_CHARACTERS + "{0,1000}")
# Of each module that an operator was called in: a key that mostly is the path, the path, the class.
_STACK_ENTRY = re.compile(_NAME_CHARACTERS + "{0,2000}")
_MAX_STACK_DOTS = 200
_MAX_STACK_ENTRIES = 100
_TARGETS = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed)\.((?!__)\w+|__[ir]?(and|or|xor|lshift|rshift)__)(\.(?!__)\w+)?"
    r"|torch\.ops\.higher_order\.(cond|map_impl|while_loop|scan|associative_scan|out_dtype|flex_attention"
    r"|invoke_subgraph|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|_operator\.(eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|floordiv|mod|pow|truediv|and_|or_|lshift|rshift|getitem)"
    r"|torch\.sym_(not|int|float|ite|max|min|sqrt|sum)|torch\._sym_sqrt|math\.(trunc|ceil|floor)",
    re.ASCII,
)
_FILE_TARGETS = re.compile(r"torch\.ops\.aten\.from_file(\..*)?")
_CUSTOM_OPERATOR = re.compile(r"torch\.ops\.((?!aten\.)[a-z]\w*\.(?!_)\w+(\.(?!__)\w+)?)", re.ASCII)
_SYMBOL = re.compile(r"[a-z]{1,4}\d{1,9}", re.ASCII)
_SYMPY_NAMES = frozenset(
    {
        "Symbol", "Integer", "Rational", "Float", "Add", "Mul", "Pow", "Max", "Min", "Mod", "Abs", "floor", "ceiling",
        "Equality", "Unequality", "Eq", "Ne", "GreaterThan", "LessThan", "StrictGreaterThan", "StrictLessThan",
        "And", "Or", "Not", "Piecewise", "ExprCondPair", "Tuple", "true", "false", "oo", "nan",
        # torch.utils._sympy.functions, as serialize.py hands them to sympify
        "FloorDiv", "ModularIndexing", "Where", "PythonMod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv", "LShift",
        "RShift", "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv", "IsNonOverlappingAndDenseIndicator",
        "TruncToFloat", "TruncToInt", "RoundToInt", "RoundDecimal", "ToFloat", "Identity",
    }
)  # fmt: skip
# Guards are Python, where the functions of sympy and the builtins that pick one of several sizes are known.
_GUARD_FUNCTIONS = _SYMPY_NAMES | {"max", "min"}
_SYMPY_STRINGS = re.compile(r"[\w.+-]{1,64}", re.ASCII)
_ARITHMETIC = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.operator, ast.unaryop, ast.cmpop, ast.Load)
_PYTREE_TYPES = frozenset(
    {
        None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict",
        "torch.fx.immutable_collections.immutable_list", "torch.fx.immutable_collections.immutable_dict",
    }
)  # fmt: skip


def parse_program(text: bytes) -> dict[str, Any]:
    """Parse and check `models/model.json`; its operators are checked and then dropped, to spare memory.

    Raises ModelCorrupt, ModelUnsafe or ModelUnsupported.
    """
    program = parse_object(text, "models/model.json")
    version = program.get("schema_version")
    if not isinstance(version, dict) or version.get("major") != SCHEMA_MAJOR:
        raise ModelUnsupported(
            f"The program was saved by PyTorch {str(program.get('torch_version'))[:40]} in another format.",
            hint="Export it again with the PyTorch that the workers run: see `octavo meta`, or GET /v1/meta.",
        )
    for symbol in _mapping(program.get("range_constraints")):
        # torch counts up to the number in the name of a symbol that no input bounds.
        if re.fullmatch(r"\D+\d{7,}", symbol):
            raise ModelUnsafe(f"The program has a symbol with a number too high: {symbol[:80]!r}.")
    for guard in _sequence(program.get("guards_code")):
        _check_guard(guard)
    graph_module = _mapping(program.get("graph_module"))
    for entry in _sequence(graph_module.get("module_call_graph")):
        _check_call_signature(_mapping(entry).get("signature"))
    return program


def parse_object(text: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object, checking every name, operator and expression in it; raises ModelCorrupt or ModelUnsafe."""
    if text.count(b"[") + text.count(b"{") > _MAX_CONTAINERS:
        raise ModelUnsafe(f"{where} in the .pt2 has more parts than a program needs.")
    try:
        # The same parser as torch's, so that both see the same of two equal keys.
        value = json.loads(text.decode("utf-8"), object_hook=_check_object)
    except (ValueError, RecursionError) as error:
        raise ModelCorrupt(f"{where} in the .pt2 is not valid JSON.") from error
    if not isinstance(value, dict):
        raise ModelCorrupt(f"{where} in the .pt2 does not hold an object.")
    return value


def check_qualified_name(name: str) -> None:
    """Pass the dotted name of a parameter; raises ModelUnsafe when it could end a string in generated code."""
    if not _QUALIFIED_NAME.fullmatch(name):
        raise ModelUnsafe(f"A parameter of the program has a name with quotes or line breaks: {name[:80]!r}.")


def _check_module_stack(stack: str) -> None:
    """Pass the modules that an operator was called in: layers are named after them, and FX writes these names too."""
    entries = stack.split(";")
    wrong = [each for each in entries if not _STACK_ENTRY.fullmatch(each) or each.count(".") > _MAX_STACK_DOTS]
    if wrong or len(entries) > _MAX_STACK_ENTRIES:
        raise ModelUnsafe(
            "A layer of the program has a name that is too long or too deep, or holds quotes, backslashes or control "
            f"characters: {(wrong or entries)[0][:80]!r}.",
            hint="Give the module another name and export again.",
        )


def _check_object(value: dict[str, Any]) -> dict[str, Any]:
    """Check one object of the JSON, whatever place it stands in; json calls it for each, innermost first."""
    for key in ("name", "as_name"):
        if isinstance(name := value.get(key), str) and not _IDENTIFIER.fullmatch(name):
            raise ModelUnsafe(f"A value of the program has a name that is not an identifier: {name[:80]!r}.")
    for key in ("parameter_name", "buffer_name", "tensor_constant_name", "user_input_name"):
        if isinstance(name := value.get(key), str):
            check_qualified_name(name)
    if isinstance(stack := value.get("nn_module_stack"), str):
        _check_module_stack(stack)
    if isinstance(expression := value.get("expr_str"), str):
        _check_expression(expression)
    if isinstance(operator := value.get("as_operator"), str):
        _check_target(operator)
    if "as_custom_obj" in value or "custom_obj" in value:
        raise ModelUnsafe("The program holds a custom object, which only unpickling could read.")
    if isinstance(target := value.get("target"), str):
        _check_target(target)
        return {}
    return value


def _check_target(target: str) -> None:
    if _TARGETS.fullmatch(target) and not _FILE_TARGETS.fullmatch(target):
        return
    if custom := _CUSTOM_OPERATOR.fullmatch(target):
        raise ModelUnsupported(
            f"The program calls the custom operator {custom[1][:120]}.",
            hint="Only PyTorch's own operators run here: write the layer with these and export again.",
        )
    raise ModelUnsafe(f"The program calls {target[:120]!r}, which is not an operator.")


def _check_expression(expression: str) -> None:
    """Allow what sympy's `srepr` writes of sizes, such as `Mul(Integer(2), Symbol('s0', integer=True))`."""
    unsafe = ModelUnsafe(f"A size in the program is not an arithmetic expression: {expression[:120]!r}.")
    for node in _walk(expression, unsafe):
        if isinstance(node, ast.Call):
            allowed = isinstance(node.func, ast.Name) and node.func.id in _SYMPY_NAMES
        elif isinstance(node, ast.Name):
            allowed = node.id in _SYMPY_NAMES or bool(_SYMBOL.fullmatch(node.id))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            allowed = bool(_SYMPY_STRINGS.fullmatch(node.value))
        elif isinstance(node, ast.keyword):
            allowed = node.arg is not None
        else:
            allowed = isinstance(node, (ast.Constant, *_ARITHMETIC))
        if not allowed:
            raise unsafe


def _check_guard(guard: object) -> None:
    """Allow comparisons of input sizes, such as `L['x'].size()[0] <= 16`."""
    unsafe = ModelUnsafe(f"A guard in the program is not a comparison of sizes: {str(guard)[:120]!r}.")
    if not isinstance(guard, str):
        raise unsafe
    for node in _walk(guard, unsafe):
        if isinstance(node, ast.Call):
            function = node.func
            allowed = not node.keywords and (
                (isinstance(function, ast.Attribute) and function.attr in {"size", "isnan"})
                or (isinstance(function, ast.Name) and function.id in _GUARD_FUNCTIONS)
            )
        elif isinstance(node, ast.Attribute):
            allowed = node.attr in {"size", "shape", "isnan", "inf"}
        elif isinstance(node, ast.Name):
            allowed = node.id in {"L", "math"} or node.id in _GUARD_FUNCTIONS
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            allowed = bool(_QUALIFIED_NAME.fullmatch(node.value))
        else:
            allowed = isinstance(node, (ast.Constant, ast.Subscript, ast.BoolOp, ast.boolop, *_ARITHMETIC))
        if not allowed:
            raise unsafe


def _walk(source: str, unsafe: ModelUnsafe) -> list[ast.AST]:
    if len(source) > 10_000:
        raise unsafe
    try:
        return list(ast.walk(ast.parse(source, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise unsafe from None


def _check_call_signature(signature: object) -> None:
    if signature is None:
        return
    fields = _mapping(signature)
    for name in _sequence(fields.get("forward_arg_names") or []):
        if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
            raise ModelUnsafe(f"An argument of the program has a name that is not an identifier: {str(name)[:80]!r}.")
    for spec in (fields.get("in_spec"), fields.get("out_spec")):
        try:
            _, tree = json.loads(spec) if isinstance(spec, str) else (None, None)
        except (ValueError, TypeError, RecursionError) as error:
            raise ModelCorrupt("The structure of the program's inputs or outputs is not valid JSON.") from error
        _check_tree(_mapping(tree))


def _check_tree(root: dict[str, Any]) -> None:
    pending = [root]
    while pending:
        tree = pending.pop()
        kind = tree.get("type")
        if kind not in _PYTREE_TYPES:
            raise ModelUnsupported(
                f"The model takes or returns a {str(kind)[:120]}.",
                hint="Wrap it in a module whose forward takes and returns tensors, tuples, lists or dicts.",
            )
        _check_tree_context(tree.get("context"))
        pending += [_mapping(child) for child in _sequence(tree.get("children_spec"))]


def _check_tree_context(context: object) -> None:
    """A context is JSON within JSON: null, or the keys of a dict."""
    try:
        keys = json.loads(context) if isinstance(context, str) else context
    except (ValueError, RecursionError) as error:
        raise ModelCorrupt("The structure of the program's inputs or outputs is not valid JSON.") from error
    for key in _sequence([] if keys is None else keys):
        if not (isinstance(key, int) or (isinstance(key, str) and _QUALIFIED_NAME.fullmatch(key))):
            raise ModelUnsafe(f"A key in the program's inputs or outputs is not a plain name: {str(key)[:80]!r}.")


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ModelCorrupt("models/model.json in the .pt2 lacks a part.")
    return value


def _sequence(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ModelCorrupt("models/model.json in the .pt2 lacks a part.")
    return value
