"""Lines of an event stream become events, as the HTML standard has it."""

from __future__ import annotations

from octavo._sse import ServerSentEvent, SSEDecoder


def decode(text: str) -> list[ServerSentEvent]:
    decoder = SSEDecoder()
    return [event for line in text.split("\n") if (event := decoder.decode(line)) is not None]


def test_an_event_is_released_by_a_blank_line() -> None:
    assert decode('id: 3\nevent: status\ndata: {"a": 1}\n\n') == [ServerSentEvent("3", "status", '{"a": 1}')]


def test_an_event_without_its_blank_line_is_not_released() -> None:
    """The connection broke within it."""
    assert decode("id: 3\ndata: half") == []


def test_comments_are_pings_and_no_events() -> None:
    assert decode(": ping\n\n: ping\n\n") == []


def test_lines_of_data_are_joined_and_the_id_is_kept() -> None:
    events = decode("id: 1\ndata: a\ndata: b\n\ndata:c\n\n")
    assert events == [ServerSentEvent("1", "message", "a\nb"), ServerSentEvent("1", "message", "c")]


def test_unknown_fields_are_ignored() -> None:
    assert decode("retry: 100\nnonsense\ndata: x\n\n") == [ServerSentEvent("", "message", "x")]
