"""Server-sent events, as the HTML standard defines the stream: lines in, events out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerSentEvent:
    """One event of a stream."""

    id: str
    event: str
    data: str


class SSEDecoder:
    """Collects the lines of a stream into events; the blank line that ends an event releases it."""

    def __init__(self) -> None:
        self._id = ""
        self._event = ""
        self._data: list[str] = []

    def decode(self, line: str) -> ServerSentEvent | None:
        """Take the next line, without its line end; return an event when it is complete."""
        if not line:
            return self._release()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        # A line that begins with a colon is a comment (a ping); other fields are to be ignored.
        return None

    def _release(self) -> ServerSentEvent | None:
        event, data = self._event, self._data
        self._event, self._data = "", []
        if not data:
            return None
        return ServerSentEvent(id=self._id, event=event or "message", data="\n".join(data))
