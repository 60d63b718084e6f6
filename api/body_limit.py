"""How large a JSON body may be; uploads have a limit of their own, counted where they are staged."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.error_responses import problem_response, request_id_of
from shared.errors import BodyTooLarge

MAX_JSON_BYTES = 1024**2


class LimitJsonBody:
    """Refuses bodies over 1 MiB, at once by their Content-Length or as soon as too much has come."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body counted, or answer 413."""
        if scope["type"] != "http" or _is_upload(scope):
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdigit() and int(announced) > MAX_JSON_BYTES:
            error = BodyTooLarge(f"The request body has {announced} bytes; this path takes {MAX_JSON_BYTES}.")
            await problem_response(error, request_id_of(scope), {"Connection": "close"})(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_JSON_BYTES:
                raise HTTPException(413, headers={"Connection": "close"})
            return message

        await self._app(scope, counted, send)


def _is_upload(scope: Scope) -> bool:
    method, path = scope["method"], scope["path"]
    return (method == "POST" and path in {"/v1/models", "/v1/datasets"}) or (method == "PUT" and "/parts/" in path)
