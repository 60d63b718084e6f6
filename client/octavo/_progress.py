"""Progress for people: bars on stderr, in a terminal or a notebook, and silence elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

from octavo._printable import printable
from octavo._types import JobEvent


def somebody_watches() -> bool:
    """Whether stderr is a terminal, or this runs in a notebook."""
    if sys.stderr is not None and sys.stderr.isatty():
        return True
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


class _Bar:
    """A tqdm bar that is made only if somebody watches; `enabled=None` finds out."""

    def __init__(self, *, enabled: bool | None, **options: Any) -> None:
        self._bar: Any = None
        if somebody_watches() if enabled is None else enabled:
            from tqdm.auto import tqdm  # noqa: PLC0415  # 60 ms that a script without a bar does not pay

            self._bar = tqdm(file=sys.stderr, dynamic_ncols=True, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


class TransferBar(_Bar):
    """Bytes sent or received."""

    def __init__(self, name: str, size_bytes: int, *, enabled: bool | None) -> None:
        super().__init__(
            enabled=enabled, desc=name, total=size_bytes, unit="B", unit_scale=True, leave=False, delay=0.3
        )

    def moved_to(self, position_bytes: int) -> None:
        """So much is there; less than before after a broken connection."""
        if self._bar is not None:
            self._bar.update(position_bytes - self._bar.n)


class JobBar(_Bar):
    """A job's step, fraction and time left, and its warnings above the bar."""

    def __init__(self, title: str, *, enabled: bool | None) -> None:
        super().__init__(
            enabled=enabled,
            desc=printable(title),
            total=1.0,
            bar_format="{desc} {percentage:3.0f}% |{bar:20}| {elapsed}{postfix}",
        )
        self._title = printable(title)

    def update(self, event: JobEvent) -> None:
        """Show what an event says."""
        if self._bar is None:
            return
        data = event.data
        if event.kind == "progress":
            self._bar.n = max(self._bar.n, min(float(data.get("fraction") or 0.0), 1.0))
            self._bar.set_postfix_str(_progress_text(data), refresh=False)
        elif event.kind == "status":
            status = printable(str(data.get("status", "")))
            self._bar.set_description_str(f"{self._title} {status}", refresh=False)
            if status == "succeeded":
                self._bar.n = 1.0
            if status != "running":
                self._bar.set_postfix_str(str(data.get("waiting_for") or ""), refresh=False)
        elif event.kind == "warning":
            self._bar.write(printable(f"Warning: {data.get('message', '')}"), file=sys.stderr)
        self._bar.refresh()


def _progress_text(data: dict[str, Any]) -> str:
    message = str(data.get("message") or "")
    text = str(data.get("step") or "") + (f": {message}" if message else "")
    text = printable(text)
    eta = data.get("eta_seconds")
    return text if eta is None else f"{text}, about {duration_text(float(eta))} left"


def duration_text(seconds: float) -> str:
    """A time span for people, such as `4 s`, `3 min` or `2.5 h`."""
    if seconds < 100:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
