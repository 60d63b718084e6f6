"""Who may ask: bearer keys, checked before a byte of the body is read."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.error_responses import problem_response, request_id_of
from shared.errors import ApiKeyInvalid, AuthenticationRequired
from shared.settings import Settings

PUBLIC_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"})
KEY_FILE = "api-key"


class ApiKeys:
    """The accepted keys, as hashes: equal in length, so that comparing them says nothing of the keys."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    @classmethod
    def from_settings(cls, settings: Settings) -> ApiKeys:
        """The keys of the settings and the one in the data directory."""
        keys = [key.get_secret_value() for key in settings.api.keys]
        file = Path(settings.data_dir, KEY_FILE)
        if file.is_file():
            keys.append(file.read_text().strip())
        return cls(key for key in keys if key)

    def accepts(self, key: str) -> bool:
        """Whether this key opens the API; takes as long for every key."""
        offered = _digest(key)
        return any([hmac.compare_digest(offered, known) for known in self._digests])  # noqa: C419 - a generator stops early


class RequireApiKey:
    """Lets a request pass that carries a known key or asks for a public path."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] != "http" or scope["path"] in PUBLIC_PATHS:
            await self._app(scope, receive, send)
            return
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._keys.accepts(key.strip()):
            await self._app(scope, receive, send)
            return
        error = ApiKeyInvalid() if key else AuthenticationRequired()
        # Closing the connection keeps a body that is already on its way from being read to its end.
        response = problem_response(error, request_id_of(scope), {"Connection": "close"})
        await response(scope, receive, send)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
