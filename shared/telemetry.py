"""What the processes write to stderr: one structured line an event, readable or JSON."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import structlog

from shared.printable import printable
from shared.settings import LogSettings

_MAX_CHARACTERS = 4000


def configure_logging(settings: LogSettings) -> None:
    """Send structlog's events, and those of libraries that use `logging`, to stderr in one format."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _make_printable,
        structlog.processors.StackInfoRenderer(),
    ]
    # Traces without the values of local variables: among those are API keys, and rendering them takes seconds.
    console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_write_trace)
    renderer: list[Any] = [console]
    if settings.format == "json":
        traces = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        renderer = [structlog.processors.ExceptionRenderer(traces), structlog.processors.JSONRenderer()]
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.getLogger("alembic").setLevel(max(level, logging.WARNING))  # it announces every plug-in


def _make_printable(_logger: Any, _method: str, event: Mapping[str, Any]) -> dict[str, Any]:
    """Every text on one line, without what a terminal would obey: paths and names come from whoever sends a request."""
    return {name: _on_one_line(value) if isinstance(value, str) else value for name, value in event.items()}


def _on_one_line(text: str) -> str:
    cut = text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 1]}…"
    if cut.isprintable():
        return cut
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in cut)


def _write_trace(stream: TextIO, error: Any) -> None:
    """A plain trace on its lines, likewise: the message of an error may quote what was sent."""
    trace = io.StringIO()
    structlog.dev.plain_traceback(trace, error)
    stream.write(printable(trace.getvalue()))
