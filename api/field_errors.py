"""Pydantic's validation errors in the words of the wire: JSON pointers into what was sent, and readable sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from shared.errors import DataRequired, FieldError, OctavoError, SpecInvalid, WrongKind
from shared.job_spec import METHODS, SPECS

_OBJECT_KINDS = {"mdl_": "a model", "dst_": "a dataset", "job_": "a job", "upl_": "an upload"}
_DATASET_ROLES = {"/calibration", "/training", "/evaluation"}
_MAX_ERRORS = 50
_METHOD_LIST = ", ".join(f"`{each}`" for each in METHODS)
_SENTENCES = {
    "union_tag_not_found": f"`method` is missing: one of {_METHOD_LIST}.",
    "missing": "This field is required.",
    "model_attributes_type": "This must be a JSON object.",
    "model_type": "This must be a JSON object.",
}


def field_errors(found: Iterable[Any], body: Any) -> list[FieldError]:
    """One entry for each of the first wrong places: the alternatives of a union are joined into one sentence."""
    by_pointer: dict[str, FieldError] = {}
    for error in found:
        if len(by_pointer) > _MAX_ERRORS:
            break  # of a hostile request there are tens of thousands, and nobody reads them
        pointer = _pointer(error["loc"], body)
        entry = FieldError(pointer=pointer, code=_code(error), detail=_detail(error, pointer))
        known = by_pointer.get(pointer)
        if known is None:
            by_pointer[pointer] = entry
        elif entry.detail not in known.detail:
            known.detail = f"{known.detail.removesuffix('.')}, or {entry.detail[0].lower()}{entry.detail[1:]}"
    return list(by_pointer.values())[:_MAX_ERRORS]


def job_request_error(found: Sequence[Any], body: Any) -> OctavoError:
    """The error of a request for a job, which is a spec or names the job that it is based on."""
    # The second part of every place says which of the two was taken for what was meant: it is not in the body.
    places = ({**each, "loc": (each["loc"][0], *each["loc"][2:])} for each in found)
    fields = field_errors(places, body)
    if found[0]["loc"][1:2] == ("revision",):
        hint = "Beside `based_on` go `apply` and `changes`; the fields of the spec go into `changes`."
        kind = WrongKind if {each.code for each in fields} == {"wrong_kind"} else SpecInvalid
        return kind(summary(fields, whole="The request"), hint=hint, errors=fields)
    return spec_error(fields)


def patched_spec_error(error: ValidationError, patched: Any) -> OctavoError:
    """The error of a spec that was made by a patch; the places are those in the patched spec."""
    found = ({**each, "loc": ("body", *each["loc"])} for each in error.errors())
    return spec_error(field_errors(found, patched), whole="The patched spec")


def spec_error(fields: list[FieldError], *, whole: str = "The spec") -> OctavoError:
    """The finest error that is true of every wrong place in a spec."""
    codes = {each.code for each in fields}
    message = summary(fields, whole=whole)
    if codes == {"wrong_kind"}:
        return WrongKind(message, errors=fields)
    if codes == {"missing"} and {each.pointer for each in fields} <= _DATASET_ROLES:
        role = fields[0].pointer.removeprefix("/")
        where = "spec" if whole == "The spec" else "changes"
        upload = "Upload a dataset (`octavo datasets upload`, or POST /v1/datasets)"
        hint = f'{upload} and name it in the {where}: "{role}": "dst_…".'
        message = f"This method needs a {role} dataset, and {whole[0].lower()}{whole[1:]} names none."
        return DataRequired(message, hint=hint, errors=fields)
    hint = "The fields of a spec and their defaults are in the server's /docs, under POST /v1/jobs."
    return SpecInvalid(message, hint=hint, errors=fields)


def summary(fields: list[FieldError], *, whole: str) -> str:
    """The first wrong place in a sentence, and how many more there are; `whole` is what no pointer stands for."""
    first = fields[0]
    more = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
    return f"{first.pointer or whole}: {first.detail}{more}"


def _pointer(loc: Sequence[str | int], body: Any) -> str:
    """The place as a JSON pointer; a parameter's name stands for itself.

    Pydantic's location also names the members of unions that it tried (`static`, `bool`): what is not in the body and
    is not its missing leaf is left out.
    """
    if loc[0] != "body":
        return _printable(f"{loc[-1]}")
    parts: list[str] = []
    here = body
    for index, part in enumerate(loc[1:], start=1):
        if index == 1 and _is_method_of(body, part):
            continue  # what it tried, though a field may have the same name: `qat` is both
        if _holds(here, part):
            here = here[part]
        elif not isinstance(here, dict) or index < len(loc) - 1:
            continue
        parts.append(f"{part}".replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{_printable(part)}" for part in parts)


def _is_method_of(body: Any, part: str | int) -> bool:
    return part in METHODS and isinstance(body, dict) and body.get("method") == part and "based_on" not in body


def _holds(here: Any, part: str | int) -> bool:
    if isinstance(here, dict):
        return part in here
    return isinstance(here, list) and isinstance(part, int) and part < len(here)


def _code(error: Any) -> str:
    if _other_kind(error):
        return "wrong_kind"
    if error["type"] == "missing" or (error["type"] == "string_type" and error["input"] is None):
        return "missing"
    return str(
        {"extra_forbidden": "unknown_field", "union_tag_invalid": "unknown_method"}.get(error["type"], error["type"])
    )


def _detail(error: Any, pointer: str) -> str:
    kind = error["type"]
    if other := _other_kind(error):
        return f"{_printable(error['input'])} names {other}; this field takes {_wanted_kind(error)}."
    if kind == "extra_forbidden":
        return _unknown_field(error, pointer)
    if kind == "union_tag_invalid":
        expected = error["ctx"]["expected_tags"].replace("'", "`")
        return f"`method` must be one of {expected}, not {_printable(error['ctx']['tag'])!r}."
    if kind == "value_error":  # raised by the spec itself: pydantic would put its own words before the reason
        reason = _printable(str(error["ctx"]["error"])).removesuffix(".")
        return f"{reason[0].upper()}{reason[1:]}."
    return _SENTENCES.get(kind) or _printable(str(error["msg"])).removesuffix(".") + "."


def _unknown_field(error: Any, pointer: str) -> str:
    """What it is no field of, and which field may have been meant."""
    method = next((part for part in error["loc"][1:2] if part in METHODS), None)
    *parents, name = pointer.removeprefix("/").split("/")
    named = [each for each in parents if not each.isdecimal()]
    where = f" of `{named[-1]}`" if named else f" of the method {method}" if method else ""
    known = _fields(SPECS[method], parents) if method else []
    meant = get_close_matches(name, known, 1)
    return f"`{name}` is not a field{where}.{f' Did you mean `{meant[0]}`?' if meant else ''}"


def _fields(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """The names of the fields of what stands at this path of a model; none where that is not to be told."""
    for name in path:
        if name.isdecimal():  # an entry of a list: its type was taken for the list's
            continue
        field = model.model_fields.get(name)
        inner = [each for each in _types(field.annotation) if issubclass(each, BaseModel)] if field else []
        if len(inner) != 1:
            return []
        model = inner[0]
    return list(model.model_fields)


def _types(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for each in get_args(annotation):
        yield from _types(each)


def _other_kind(error: Any) -> str | None:
    """What an id names, when it was given where an id of another kind belongs."""
    if error["type"] != "string_pattern_mismatch":
        return None
    prefix = str(error["input"])[:4]
    if f"^{prefix}" in error["ctx"]["pattern"]:
        return None
    return _OBJECT_KINDS.get(prefix) if any(each in error["ctx"]["pattern"] for each in _OBJECT_KINDS) else None


def _wanted_kind(error: Any) -> str:
    return next(words for prefix, words in _OBJECT_KINDS.items() if prefix in error["ctx"]["pattern"])


def _printable(text: str) -> str:
    """Also a lone surrogate, which JSON can carry and UTF-8 cannot, must reach the answer; cut to a line."""
    return text.encode("utf-8", "backslashreplace").decode()[:200]
