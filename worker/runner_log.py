"""What a runner writes to stderr, passed on to the worker's own log: whoever controls the runner controls what it says.

It has a pipe, not the log: it can neither shorten the log nor write into it as if it were the worker. Each line is made
printable and bears the name of the job; what is more than a job's share is read and dropped.
"""

from __future__ import annotations

import logging
import os
import selectors
import threading
import time

from shared.printable import printable_line

_LOG = logging.getLogger(__name__)
_SHARE_BYTES = 256 * 1024
_MAX_LINE_CHARACTERS = 2000
_READ_BYTES = 64 * 1024
_LOOK_SECONDS = 0.5
_PAUSE_SECONDS = 0.05  # between reads of what is dropped: a flood waits in the pipe, and not in our CPU time


class RunnerLog:
    """Reads one runner's stderr in a thread of its own until it ends."""

    def __init__(self, descriptor: int) -> None:
        """Takes over the reading end of the pipe."""
        self.name = "spare runner"
        """Whom it speaks for: set it to the job's when there is one."""
        self._descriptor = descriptor
        self._rest = b""
        self._left_bytes = _SHARE_BYTES
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="runner-log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Pass on what is left; an escaped child that holds the pipe open is not waited for."""
        self._ended.set()
        self._thread.join(timeout=2 * _LOOK_SECONDS)

    def _run(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._descriptor, selectors.EVENT_READ)
                while True:
                    if not selector.select(_LOOK_SECONDS):
                        if self._ended.is_set():
                            break
                        continue
                    chunk = os.read(self._descriptor, _READ_BYTES)
                    if not chunk or (self._ended.is_set() and self._left_bytes <= 0):
                        break
                    self._take(chunk)
        finally:
            os.close(self._descriptor)
            if self._rest:
                self._tell(self._rest)

    def _take(self, chunk: bytes) -> None:
        if self._left_bytes <= 0:
            time.sleep(_PAUSE_SECONDS)
            return
        *lines, self._rest = (self._rest + chunk[: self._left_bytes]).split(b"\n")
        self._left_bytes -= len(chunk)
        if self._left_bytes <= 0:
            lines += [self._rest, b"(what follows is left out)"]
            self._rest = b""
        for line in lines:
            self._tell(line)

    def _tell(self, line: bytes) -> None:
        if line.strip():
            _LOG.warning("%s: %s", self.name, printable_line(line.decode(errors="replace"), limit=_MAX_LINE_CHARACTERS))
