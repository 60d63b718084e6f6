"""Where the server is and which key opens it: arguments first, then the environment."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from octavo._exceptions import OctavoError

DEFAULT_URL = "http://127.0.0.1:8080"


@dataclass(frozen=True)
class Config:
    """A server and the key to it; the key stays out of the repr."""

    url: str
    api_key: str | None = field(repr=False)

    @classmethod
    def resolve(cls, url: str | None = None, api_key: str | None = None) -> Config:
        """Fill in OCTAVO_URL, then http://127.0.0.1:8080, and OCTAVO_API_KEY.

        Raises:
            OctavoError: the URL is not an http or https address.
        """
        url = (url or os.environ.get("OCTAVO_URL") or DEFAULT_URL).rstrip("/")
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise OctavoError(f"OCTAVO_URL must be like {DEFAULT_URL}, not {url!r}")
        key = api_key if api_key is not None else os.environ.get("OCTAVO_API_KEY")
        return cls(url=url, api_key=key.strip() if key and key.strip() else None)

    @property
    def is_loopback(self) -> bool:
        """Whether the server is this machine, which no proxy can reach."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"
