"""Writes the pages of docs/reference/ that follow from the code; `--check` fails when one is out of date.

Run it after changing a setting, an error, the spec, the report, a command or an endpoint: `make docs`.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

import shared.job
from api.app import documented_app
from api.error_responses import status_of
from api.openapi import document
from octavo.cli import main as octavo_command
from server.cli import main as server_command
from shared import errors
from shared.benchmark_report import BenchmarkReport
from shared.job import TRANSITIONS, JobStatus
from shared.job_report import JobReport
from shared.job_spec import SPECS
from shared.settings import Settings

REFERENCE = Path(__file__).parent / "reference"
# They happen where a job runs: no request is answered with them.
_NEVER_ANSWERED = (
    errors.RunError,
    errors.WorkerLost,
    errors.WorkerCrashed,
    errors.SandboxUnavailable,
    errors.StaleFence,
)
_GENERATED = "<!-- Written by docs/generate_reference.py from the code: change that, then run `make docs`. -->\n"


def settings_page() -> str:
    """Every setting, by the environment variable that sets it."""
    lines = [
        "# Settings",
        "",
        "Every process of the server reads the same environment variables. The defaults are the embedded stack;",
        "`octavo-server up` sets the data directory, the host, the port and the broker itself.",
    ]
    for section, rows in _setting_sections(Settings):
        lines += ["", f"## {section}", "", "| Variable | Default | Meaning |", "|---|---|---|"]
        lines += [f"| `{name}` | {default} | {meaning} |" for name, default, meaning in rows]
    return "\n".join(lines)


def _setting_sections(model: type[BaseModel]) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    own = []
    nested = []
    for name, field in model.model_fields.items():
        if _is_model(field.annotation):
            section = field.annotation
            assert section is not None
            rows = [
                (f"OCTAVO_{name}__{inner}".upper(), _default(inner_field), _meaning(inner_field))
                for inner, inner_field in section.model_fields.items()
            ]
            nested.append((name, rows))
        else:
            own.append((f"OCTAVO_{name}".upper(), _default(field), _meaning(field)))
    yield "The whole", own
    yield from nested


def errors_page() -> str:
    """Every error code, with the HTTP status it is answered with and what to do."""
    lines = [
        "# Error codes",
        "",
        "A request that fails is answered with `application/problem+json` (RFC 9457), whose `code` is one of these.",
        "A job that fails carries the same codes in `error.code`. What the **user** sent cannot be served and is never",
        "retried; what the **service** failed at is retried with backoff before it becomes the job's failure.",
        "",
        "| Code | HTTP | Whose | What happened | What to do |",
        "|---|---|---|---|---|",
    ]
    for error in sorted(_error_classes(), key=lambda each: (issubclass(each, errors.ServiceError), each.code)):
        owner = "service" if issubclass(error, errors.ServiceError) else "user"
        answered = "in the job" if issubclass(error, _NEVER_ANSWERED) else str(int(status_of(error)))
        message = _first_line(error)
        hint = _cell((error.default_hint or "").split("\n")[0].rstrip(":"))
        lines.append(f"| `{error.code}` | {answered} | {owner} | {message} | {hint} |")
    lines += [
        "",
        "A `.pt2` is made with these lines:",
        "",
        "```python",
        inspect.cleandoc(errors.EXPORT_LINES).replace("import torch", "import torch\n"),
        "```",
    ]
    return "\n".join(lines)


def _error_classes() -> list[type[errors.OctavoError]]:
    classes = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, errors.OctavoError)]
    return [each for each in classes if each is not errors.OctavoError]


def states_page() -> str:
    """The five states of a job and the moves between them."""
    source = inspect.getsource(shared.job)
    meanings = dict(re.findall(r'^    [A-Z]+ = "([a-z]+)"  #: (.+)$', source, re.MULTILINE))
    lines = ["# States and steps of a job", "", "```mermaid", "stateDiagram-v2", "    [*] --> queued"]
    for status in JobStatus:
        lines += [f"    {status} --> {following}" for following in JobStatus if following in TRANSITIONS[status]]
    lines += [f"    {status} --> [*]" for status in JobStatus if not TRANSITIONS[status]]
    lines += ["```", "", "| State | Meaning |", "|---|---|"]
    lines += [f"| `{status}` | {_cell(meanings[status])} |" for status in JobStatus]
    lines += [
        "",
        "A running job is in one of these steps, in this order; a method leaves out what it does not need.",
        "",
    ]
    lines += ["| Step | What happens |", "|---|---|"]
    lines += [f"| `{step}` | {_cell(meanings[step])} |" for step in shared.job.Step]
    return "\n".join(lines)


def spec_page() -> str:
    """What a job can ask for, by method."""
    lines = [
        "# The spec of a job",
        "",
        "The body of `POST /v1/jobs`. Unknown fields are refused. Defaults are echoed back.",
    ]
    for model in SPECS.values():
        [method] = get_args(model.model_fields["method"].annotation)
        lines += ["", f"## `{method}`", "", _first_line(model), "", *_field_table(model, required_first=True)]
    nested = _nested_models(*SPECS.values())
    for model in nested:
        lines += ["", f"## {model.__name__}", "", _first_line(model), "", *_field_table(model)]
    return "\n".join(lines)


def report_page() -> str:
    """What `report.json` holds."""
    lines = ["# The report of a job", "", "What `report.json` holds, first of a job that quantizes."]
    for model in (JobReport, BenchmarkReport):
        lines += ["", f"## {model.__name__}", "", _doc(model), "", *_field_table(model)]
    for model in _nested_models(JobReport, BenchmarkReport):
        lines += ["", f"## {model.__name__}", "", _first_line(model), "", *_field_table(model)]
    return "\n".join(lines)


def commands_page() -> str:
    """The help of both commands, page by page."""
    lines = ["# Commands", "", "`octavo` comes with the client, `octavo-server` with the server."]
    for name, command in (("octavo", octavo_command), ("octavo-server", server_command)):
        for path, each in _commands(name, command):
            context = click.Context(each, info_name=path, terminal_width=100, max_content_width=100)
            lines += ["", f"## `{path}`", "", "```text", each.get_help(context), "```"]
    return "\n".join(lines)


def _commands(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _commands(f"{path} {name}", command.commands[name])


def openapi_document() -> str:
    """What a running server answers under /openapi.json."""
    return json.dumps(document(documented_app()), indent=2, ensure_ascii=False)


def http_page() -> str:
    """The endpoints, from the OpenAPI document."""
    lines = [
        "# HTTP API",
        "",
        "The whole of it, with an example for every request and answer, is the OpenAPI document:",
        "[openapi.json](openapi.json), or `/docs` of a running server. Errors are `application/problem+json` with a",
        "code from [errors](errors.md).",
        "",
        "| Request | What it does | Answers |",
        "|---|---|---|",
    ]
    for path, operations in document(documented_app())["paths"].items():
        for method, operation in operations.items():
            answers = ", ".join(code for code in operation["responses"] if code.isdigit())
            lines.append(f"| `{method.upper()} {path}` | {_cell(operation.get('summary', ''))} | {answers} |")
    return "\n".join(lines)


# --- pieces ----------------------------------------------------------------------------------------------------------


def _field_table(model: type[BaseModel], *, required_first: bool = False) -> list[str]:
    rows = ["| Field | Type | Default | Meaning |", "|---|---|---|---|"]
    fields = list(model.model_fields.items())
    if required_first:
        fields.sort(key=lambda field: not field[1].is_required())
    for name, field in fields:
        rows.append(
            f"| `{field.alias or name}` | {_type_name(field.annotation)} | {_default(field)} | {_meaning(field)} |"
        )
    return rows


def _nested_models(*roots: type[BaseModel]) -> list[type[BaseModel]]:
    found: dict[type[BaseModel], None] = {}

    def visit(annotation: Any) -> None:
        if _is_model(annotation):
            if annotation not in found and annotation not in roots:
                found[annotation] = None
                visit_fields(annotation)
        else:
            for argument in get_args(annotation):
                visit(argument)

    def visit_fields(model: type[BaseModel]) -> None:
        for field in model.model_fields.values():
            visit(field.annotation)

    for root in roots:
        visit_fields(root)
    return list(found)


def _is_model(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, BaseModel)


def _type_name(annotation: Any) -> str:
    return f"`{_type_words(annotation)}`"


def _type_words(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_words(arguments[0])
    if origin is Literal:
        return " or ".join(json.dumps(value) for value in arguments)
    if origin in {Union, UnionType}:
        return " or ".join(_type_words(argument) for argument in arguments)
    if arguments:
        return f"{origin.__name__}[{', '.join(_type_words(argument) for argument in arguments)}]"
    return "null" if annotation is NoneType else getattr(annotation, "__name__", str(annotation))


def _default(field: Any) -> str:
    if field.default is PydanticUndefined:
        return "required" if field.default_factory is None else f"`{field.default_factory()!r}`"
    value = field.default
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None:
        return "unset"
    return f"`{_cell(json.dumps(value, default=str))}`"


def _meaning(field: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [
        f"{sign} {getattr(each, word)}"
        for each in field.metadata
        for word, sign in signs.items()
        if hasattr(each, word)
    ]
    bounds = f"({', '.join(limits)})" if limits else ""
    return _cell(f"{field.description or ''} {bounds}")


def _doc(described: Any) -> str:
    return inspect.cleandoc(described.__doc__ or "")


def _first_line(described: Any) -> str:
    return _cell(_doc(described).split("\n")[0])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "errors.md": errors_page,
    "states.md": states_page,
    "spec.md": spec_page,
    "report.md": report_page,
    "commands.md": commands_page,
    "http.md": http_page,
    "openapi.json": openapi_document,
}


def render(name: str) -> str:
    """One page as it should stand on disk."""
    text = f"{PAGES[name]().strip()}\n"
    return f"{_GENERATED}\n{text}" if name.endswith(".md") else text


def main() -> None:
    """Write the pages, or with `--check` say which are out of date."""
    stale = [
        name for name in PAGES if not (REFERENCE / name).exists() or (REFERENCE / name).read_text() != render(name)
    ]
    if "--check" in sys.argv:
        if stale:
            sys.exit(f"Out of date: {', '.join(stale)} in docs/reference/. Run `make docs`.")
        return
    for name in stale:
        (REFERENCE / name).write_text(render(name))
        print(f"docs/reference/{name}")


if __name__ == "__main__":
    main()
