"""How jobs on one node make way for each other's measurements, by three locks on files that all its workers share.

- `computing` is held shared for every runner that runs, and exclusively for the one that measures;
- `measuring` is held exclusively by the one that wants to measure, before it asks for `computing`: whoever computes
  sees that, stops its runner, lets go, and takes `computing` again only when `measuring` is free;
- `turn` is held shared by each that was stopped, until it has computed for as long as it stood still: nobody asks for
  the node meanwhile, so that measurements in a row starve no job.

So a runner runs only while its supervisor holds `computing`, and who waits holds nothing that another waits for. The
locks are flock's: two threads that open a file each exclude each other like two processes, and the kernel frees what a
dead one held. No call blocks in the kernel, for a job that waits must still see that it is cancelled.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_LOG = logging.getLogger(__name__)
# How late a wish to measure is seen. A look costs some 40 microseconds, most of it the waking of the thread.
_LOOK_SECONDS = 0.1


class NodeSharing:
    """Who computes and who measures on this node."""

    def __init__(self, folder: Path) -> None:
        """Uses, or makes, a folder that belongs to this user alone: whoever can open a file can hold its lock.

        Without one, or on a file system without flock, jobs run without regard to each other; the log says so once.
        """
        self._folder = folder
        self._told = False
        with contextlib.ExitStack() as opened:  # so that it is said when the worker starts
            self._open_locks(opened)

    @contextlib.contextmanager
    def computing(self, *, pause: Callable[[], None], resume: Callable[[], None]) -> Iterator[NodeShare]:
        """Let a runner compute inside the block, but for the time that others measure.

        `pause` returns once the runner stands still, `resume` lets it go on. They are called one at a time, by this
        thread or the share's own, from before the block is entered, and also when the runner is dead: neither may
        raise or wait long. A runner that stands still when the block is left is not resumed: it has to be killed.
        """
        with contextlib.ExitStack() as opened:
            share = NodeShare(*self._open_locks(opened), pause=pause, resume=resume)
            with share.watched():
                yield share

    def is_measured(self) -> bool:
        """Whether somebody measures on this node, or is about to."""
        with contextlib.ExitStack() as opened:
            _, measuring, _ = self._open_locks(opened)
            return not measuring.is_free()

    def _open_locks(self, opened: contextlib.ExitStack) -> tuple[_Lock, _Lock, _Lock]:
        try:
            _make_private(self._folder)
            computing, measuring, turn = (
                opened.enter_context(contextlib.closing(_Lock(self._folder / name)))
                for name in ("computing", "measuring", "turn")
            )
        except OSError as error:
            if not self._told:
                _LOG.warning("Jobs on this node do not make way for each other's measurements: %s", error)
            self._told = True
            return _Lock(None), _Lock(None), _Lock(None)
        return computing, measuring, turn


class NodeShare:
    """One runner's share of the node."""

    def __init__(
        self, computing: _Lock, measuring: _Lock, turn: _Lock, *, pause: Callable[[], None], resume: Callable[[], None]
    ) -> None:
        self._computing, self._measuring, self._turn = computing, measuring, turn
        self._pause, self._resume = pause, resume
        self._moving = threading.Lock()
        """Held by the thread that decides whether the runner runs."""
        self._stood_still: tuple[float, float | None] = 0.0, None
        """The seconds of all pauses that are over, and when the present one began."""
        self._turn_ends_at: float | None = None
        self._done = threading.Event()

    @property
    def paused_seconds(self) -> float:
        """How long the runner has stood still, or waited to measure, so far; any thread may ask."""
        seconds, since = self._stood_still
        return seconds if since is None else seconds + time.monotonic() - since

    @contextlib.contextmanager
    def alone(self, check: Callable[[], object]) -> Iterator[None]:
        """Measure inside the block: no other runner of this node runs there.

        Blocks until the node is free, while the own runner stands still. `check` is called ten times a second
        meanwhile; what it raises is passed on, with nothing locked. Not to be nested.
        """
        with self._moving:
            self._stand_still()
            self._turn.release()
            try:
                _wait_until(self._may_ask, check)
                _wait_until(self._computing.take, check)
                self._go_on()
                try:
                    yield
                finally:
                    self._computing.share()  # before `measuring` is free, so that nobody else can measure first
            finally:
                self._measuring.release()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Have a thread stop the runner for others inside the block; it computes, or stands still, from the start."""
        # A thread of its own: the one that serves the runner waits for messages, the claim's watch for the database.
        thread = threading.Thread(target=self._watch, name="node-share", daemon=True)
        if not self._may_compute():
            self._stand_still()
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_LOOK_SECONDS):
            with self._moving:
                self._look()

    def _look(self) -> None:
        _, since = self._stood_still
        if since is not None:
            self._turn.share()  # at every look: another's look at it may be in the way, for a moment
            if self._may_compute():
                self._go_on()
                now = time.monotonic()
                self._turn_ends_at = now + (now - since)
        elif not self._measuring.is_free():
            self._stand_still()
        elif self._turn_ends_at is not None and time.monotonic() > self._turn_ends_at:
            self._turn_ends_at = None
            self._turn.release()

    def _may_compute(self) -> bool:
        if not self._measuring.share():
            return False
        # Held by somebody who measures only for the moment in which the kernel frees all that a dead one held.
        granted = self._computing.share()
        self._measuring.release()
        return granted

    def _may_ask(self) -> bool:
        if not self._turn.take():
            return False
        self._turn.release()
        return self._measuring.take()

    def _stand_still(self) -> None:
        seconds, since = self._stood_still
        if since is None:
            self._pause()
            self._stood_still = seconds, time.monotonic()
        self._computing.release()

    def _go_on(self) -> None:
        self._stood_still = self.paused_seconds, None
        self._resume()


class _Lock:
    """A flock on a file of its own opening; without a file it is always granted. Nothing here waits."""

    def __init__(self, path: Path | None) -> None:
        self._descriptor = None if path is None else os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            self.is_free()  # fails on a file system without locks
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Let go, for good."""
        if self._descriptor is not None:
            os.close(self._descriptor)

    def share(self) -> bool:
        """Hold it with others, unless somebody holds it alone; of one held alone this is the way back."""
        return self._granted(fcntl.LOCK_SH)

    def take(self) -> bool:
        """Hold it alone, unless somebody holds it."""
        return self._granted(fcntl.LOCK_EX)

    def release(self) -> None:
        """Let go, if it is held."""
        self._granted(fcntl.LOCK_UN)

    def is_free(self) -> bool:
        """Whether nobody holds it alone; not to be asked by one that holds it."""
        free = self.share()
        self.release()
        return free

    def _granted(self, operation: int) -> bool:
        if self._descriptor is not None:
            try:
                fcntl.flock(self._descriptor, operation | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True


def _wait_until(granted: Callable[[], bool], check: Callable[[], object]) -> None:
    check()
    while not granted():
        time.sleep(_LOOK_SECONDS)
        check()


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(errno.EPERM, "Not this user's alone (mode 0700)", str(folder))
