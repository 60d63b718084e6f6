"""/docs and /openapi.json: the reference as one plain page, which needs no script and no other host."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse

router = APIRouter(include_in_schema=False)

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #d0d7de; font-size: 1.1rem }
h2 code { font-size: 1rem }
pre { background: #f6f8fa; padding: .75rem; overflow-x: auto; font-size: .85rem }
table { border-collapse: collapse; font-size: .9rem } td, th { text-align: left; padding: .15rem .75rem .15rem 0 }
summary { cursor: pointer } .method { color: #0550ae }
@media (prefers-color-scheme: dark) {
  body { background: #0d1117; color: #e6edf3 } pre { background: #161b22 } .method { color: #79c0ff }
}
"""


@router.get("/openapi.json")
async def get_openapi_document(request: Request) -> JSONResponse:
    """The OpenAPI 3.1 document."""
    return JSONResponse(request.app.openapi())


@router.get("/docs")
async def get_docs(request: Request) -> HTMLResponse:
    """The same, to be read."""
    return HTMLResponse(render_page(request.app.openapi()))


def render_page(document: dict[str, Any]) -> str:
    """The document as HTML: every operation with its parameters, its request and its answers."""
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    contents = "".join(
        f'<tr><td class="method">{method.upper()}</td><td><a href="#{operation["operationId"]}"><code>{escape(path)}'
        f"</code></a></td><td>{escape(operation['summary'])}</td></tr>"
        for method, path, operation in operations
    )
    known = document["components"]["examples"]
    sections = "".join(_section(*each, known) for each in operations)
    title = escape(document["info"]["title"])
    introduction = _paragraphs(document["info"]["description"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}: HTTP API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f'<h1>{title}</h1>{introduction}<p><a href="openapi.json">openapi.json</a> has the schemas.</p>'
        f"<table>{contents}</table>{sections}</html>"
    )


def _section(method: str, path: str, operation: dict[str, Any], known: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(each['name'])}</code></td><td>{escape(each['in'])}</td>"
        f"<td>{escape(each.get('description', ''))}</td></tr>"
        for each in operation.get("parameters", [])
    )
    parameters = f"<table>{rows}</table>" if rows else ""
    request = "".join(_media(each, known) for each in operation.get("requestBody", {}).get("content", {}).items())
    answers = "".join(
        f"<details><summary>{status} {escape(response['description'])}</summary>"
        f"{''.join(_media(each, known) for each in response.get('content', {}).items())}</details>"
        for status, response in operation["responses"].items()
    )
    return (
        f'<h2 id="{operation["operationId"]}"><span class="method">{method.upper()}</span> <code>{escape(path)}</code> '
        f"{escape(operation['summary'])}</h2>{_paragraphs(operation.get('description', ''))}{parameters}"
        f"{'<h3>Request</h3>' + request if request else ''}<h3>Answers</h3>{answers}"
    )


def _media(entry: tuple[str, dict[str, Any]], known: dict[str, Any]) -> str:
    media_type, content = entry
    given = content.get("examples", {"": {"value": content.get("example")}})
    # A problem's example is a reference whose last word is its code.
    examples = [
        known[each["$ref"].rpartition("/")[2]]["value"] if "$ref" in each else each["value"] for each in given.values()
    ]
    shown = "".join(f"<pre>{escape(_text(each))}</pre>" for each in examples if each is not None)
    return f"<p><code>{escape(media_type)}</code></p>{shown}"


def _text(example: Any) -> str:
    return example if isinstance(example, str) else json.dumps(example, indent=2, ensure_ascii=False)


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(each)}</p>" for each in text.split("\n\n") if each)
