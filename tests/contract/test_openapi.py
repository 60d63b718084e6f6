"""The OpenAPI document: complete, valid, and every example true to its schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from api.app import documented_app
from api.openapi import document
from tests.api_server import check_schema

DOCUMENT: dict[str, Any] = document(documented_app())
OPERATIONS = [
    pytest.param(operation, id=f"{method} {path}")
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]
BODILESS = {"204", "304", "307"}


def examples_of(media: dict[str, Any]) -> Iterator[Any]:
    if "example" in media:
        yield media["example"]
    for example in media.get("examples", {}).values():
        if "$ref" in example:
            assert example["$ref"].startswith("#/components/examples/")
            yield DOCUMENT["components"]["examples"][example["$ref"].rpartition("/")[2]]["value"]
        else:
            yield example["value"]


def test_every_schema_is_a_valid_json_schema_and_every_reference_leads_somewhere() -> None:
    Draft202012Validator.check_schema({"$defs": DOCUMENT["components"]["schemas"]})
    for reference in references(DOCUMENT):
        found: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_operation_ids_are_unique() -> None:
    ids = [each.values[0]["operationId"] for each in OPERATIONS]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_answer_has_an_example_that_fits_its_schema(operation: dict[str, Any]) -> None:
    for status, response in operation["responses"].items():
        contents = response.get("content", {})
        assert bool(contents) != (status in BODILESS), f"{status} has {'a' if contents else 'no'} body"
        for media_type, media in contents.items():
            found = list(examples_of(media))
            assert found, f"{status} {media_type} has no example"
            for example in found:
                check_schema(DOCUMENT, media["schema"], example)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_request_body_has_an_example_that_fits_its_schema(operation: dict[str, Any]) -> None:
    for media_type, media in operation.get("requestBody", {}).get("content", {}).items():
        found = list(examples_of(media))
        assert found, f"{media_type} has no example"
        for example in found:
            check_schema(DOCUMENT, media["schema"], example)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_has_words_and_every_path_parameter_an_example(operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"]
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            assert parameter["schema"].get("examples"), parameter["name"]


def test_every_operation_but_the_public_ones_asks_for_the_key_and_says_so() -> None:
    public = {"getHealth", "getReadiness", "getMetrics"}
    for each in OPERATIONS:
        operation = each.values[0]
        assert ("security" in operation) == (operation["operationId"] not in public)
        assert ("401" in operation["responses"]) == (operation["operationId"] not in public)


def test_every_post_takes_an_idempotency_key() -> None:
    for path, methods in DOCUMENT["paths"].items():
        if "post" in methods:
            assert "Idempotency-Key" in {each["name"] for each in methods["post"]["parameters"]}, path
