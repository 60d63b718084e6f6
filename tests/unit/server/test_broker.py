"""The embedded broker is a real server behind a password that stands nowhere in sight."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import AuthenticationError, Redis

from server.broker import Broker, find_broker_server
from server.child import Child
from tests.services.process import wait_until


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[Broker, Child]]:
    broker = Broker(tmp_path)
    child = Child("broker", broker.command(), log=tmp_path / "log", environment={}, stdin=broker.settings())
    lock_fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    child.start(lock_fd=lock_fd)
    wait_until(broker.answers, "the broker", log=child.log)
    yield broker, child
    child.kill_group()
    os.close(lock_fd)


def test_it_keeps_what_it_is_told_on_disk_and_throws_nothing_away(started: tuple[Broker, Child]) -> None:
    broker, _ = started
    with Redis.from_url(broker.url) as connection:
        assert connection.config_get("appendonly")["appendonly"] == "yes"
        assert connection.config_get("appendfsync")["appendfsync"] == "everysec"
        assert connection.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert connection.config_get("bind")["bind"] == "127.0.0.1"


def test_it_refuses_who_has_no_password(started: tuple[Broker, Child]) -> None:
    broker, _ = started
    with Redis(port=broker.port, protocol=2) as connection, pytest.raises(AuthenticationError):
        connection.ping()


def test_the_password_is_not_on_the_command_line() -> None:
    broker = Broker(Path("unused"))
    password = broker.url.split("@")[0].rpartition(":")[2]
    assert len(password) == 48
    assert not any(password in word for word in broker.command())


def test_a_server_on_path_serves_where_the_wheel_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = tmp_path / "redis-server"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    monkeypatch.setattr("server.broker.find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_broker_server() == str(server)
