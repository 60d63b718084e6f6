"""The embedded stack: broker, database, API and worker as one process tree.

    octavo-server up ─┬─ valkey-server      hints, on a private port
                      ├─ python -m api
                      └─ python -m worker

One thread; signals are taken when it waits, so a stop comes in order: API and worker, then the broker they talk to.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Literal

import click

from server.broker import Broker, free_port
from server.child import Child, ChildFailed
from server.data_directory import DataDirectory
from shared.settings import Settings

_STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_START_SECONDS = 60.0
_STOP_MARGIN_SECONDS = 5.0
# Whoever presses Ctrl-C waits for it: a running job goes back to the queue, and on with the next start.
_WORKER_GRACE_SECONDS = 2.0


class StopRequested(Exception):
    """Ctrl-C, SIGTERM or SIGHUP."""


class Stack:
    """Starts everything, watches it, stops it."""

    def __init__(self, settings: Settings, *, verbose: bool) -> None:
        self._settings = settings
        self._verbose = verbose
        self._directory = DataDirectory(settings.data_dir)
        self._children: list[Child] = []
        given = "shutdown_grace_seconds" in settings.worker.model_fields_set
        self._worker_grace_seconds = settings.worker.shutdown_grace_seconds if given else _WORKER_GRACE_SECONDS
        self.host = settings.api.host
        self.port = settings.api.port

    @property
    def address(self) -> str:
        """The URL that a client on this machine uses."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - read, not bound
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def directory(self) -> DataDirectory:
        """The data directory; open while the stack runs."""
        return self._directory

    def run(self, when_ready: Callable[[], None]) -> None:
        """Start, call `when_ready` once /readyz answers 200, and watch until a stop signal; then stop everything.

        Raises click.ClickException when it cannot start, or when a part dies again and again.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, {*_STOP_SIGNALS, signal.SIGCHLD})
        self._directory.open()
        self._directory.api_key()
        self._choose_port()
        try:
            self._start()
            when_ready()
            while True:
                self._pause(1.0)
                self._watch()
        except StopRequested:
            click.echo("Stopping …", err=True)
        except ChildFailed as error:
            raise click.ClickException(
                f"{error}, again and again. The end of {error.child.log}:\n\n{error.child.last_log_lines()}"
            ) from error
        finally:
            self._stop()

    # --- start -------------------------------------------------------------------------------------------------------

    def _choose_port(self) -> None:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((self.host, self.port))
        except OSError as error:
            raise click.ClickException(
                f"Cannot listen on {self.host}:{self.port}: {error.strerror}. "
                "Choose another with --port (0 takes any that is free)."
            ) from error
        self.port = self.port or free_port(self.host)

    def _start(self) -> None:
        environment = {
            **os.environ,
            "OCTAVO_DATA_DIR": str(self._directory.path),
            "OCTAVO_API__HOST": self.host,
            "OCTAVO_API__PORT": str(self.port),
            "OCTAVO_API__READY_NEEDS_WORKER": "true",
            "OCTAVO_WORKER__SHUTDOWN_GRACE_SECONDS": str(self._worker_grace_seconds),
            # The user's own directory may hold an `api` or a `worker` of its own.
            "PYTHONSAFEPATH": "1",
        }
        broker = None
        if "broker_url" not in self._settings.queue.model_fields_set:
            broker = Broker(self._directory.broker)
            environment["OCTAVO_QUEUE__BROKER_URL"] = broker.url
            self._spawn("broker", broker.command(), environment={}, stdin=broker.settings())
        self._migrate(environment)
        if broker is not None:
            self._wait_until(broker.answers, "broker")
        self._spawn("worker", [sys.executable, "-m", "worker"], environment=environment)
        self._spawn("API", [sys.executable, "-m", "api"], environment=environment)
        self._wait_until(self._is_ready, "API")

    def _spawn(
        self,
        name: Literal["broker", "worker", "API"],
        command: list[str],
        *,
        environment: dict[str, str],
        stdin: bytes = b"",
    ) -> None:
        child = Child(
            name, command, log=self._directory.logs / f"{name.lower()}.log", environment=environment, stdin=stdin
        )
        child.start(lock_fd=self._directory.lock_fd)
        self._children.append(child)

    def _migrate(self, environment: dict[str, str]) -> None:
        # In a process of its own: this one need not carry the database's modules while it runs.
        command = [sys.executable, "-m", "server", "migrate"]
        migration = Child("migration", command, log=self._directory.logs / "migrate.log", environment=environment)
        migration.start(lock_fd=self._directory.lock_fd)
        try:
            while migration.running:
                self._pause(0.05)
        finally:
            migration.kill_group()
        if migration.exit_code() != 0:
            raise click.ClickException(
                f"The database could not be brought up to date. The end of {migration.log}:\n\n"
                f"{migration.last_log_lines()}"
            )

    def _wait_until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                tails = "\n\n".join(f"{child.log}:\n{child.last_log_lines()}" for child in self._children)
                raise click.ClickException(f"The {what} is not ready after {_START_SECONDS:.0f} s.\n\n{tails}")
            self._watch()
            self._pause(0.05)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/readyz", timeout=2) as answer:  # noqa: S310 - own address
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    # --- watch and stop ----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        for child in self._children:
            if (news := child.supervise(lock_fd=self._directory.lock_fd)) is not None:
                click.echo(news, err=True)
            if self._verbose:
                for line in child.new_log_lines():
                    click.echo(f"{child.name:6} | {line}", err=True)
            child.rotate_log()

    def _pause(self, seconds: float) -> None:
        """Wait, at most until a child dies; raises StopRequested when asked to stop."""
        received = signal.sigtimedwait({*_STOP_SIGNALS, signal.SIGCHLD}, seconds)
        if received is not None and received.si_signo in _STOP_SIGNALS:
            raise StopRequested

    def _stop(self) -> None:
        broker = [child for child in self._children if child.name == "broker"]
        others = [child for child in self._children if child.name != "broker"]
        try:
            self._end(others, self._worker_grace_seconds + _STOP_MARGIN_SECONDS)
            self._end(broker, _STOP_MARGIN_SECONDS)
        except StopRequested:
            click.echo("Stopping at once.", err=True)
        finally:
            for child in self._children:
                child.kill_group()

    def _end(self, children: list[Child], seconds: float) -> None:
        for child in children:
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while any(child.running for child in children) and time.monotonic() < deadline:
            self._pause(0.1)
