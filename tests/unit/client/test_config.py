"""Arguments win over the environment, the environment over the default."""

from __future__ import annotations

import pytest

import octavo
from octavo._config import Config


def test_the_default_is_this_machine() -> None:
    config = Config.resolve()
    assert (config.url, config.api_key, config.is_loopback) == ("http://127.0.0.1:8080", None, True)


def test_the_environment_wins_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_URL", "https://octavo.example/base/")
    monkeypatch.setenv("OCTAVO_API_KEY", " secret\n")
    config = Config.resolve()
    assert (config.url, config.api_key, config.is_loopback) == ("https://octavo.example/base", "secret", False)


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_URL", "https://octavo.example")
    monkeypatch.setenv("OCTAVO_API_KEY", "of-the-environment")
    config = Config.resolve("http://localhost:1", "given")
    assert (config.url, config.api_key, config.is_loopback) == ("http://localhost:1", "given", True)


@pytest.mark.parametrize("url", ["octavo.example", "ftp://octavo.example", "http://", "127.0.0.1:8080"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(octavo.OctavoError, match="OCTAVO_URL must be like"):
        Config.resolve(url)


def test_the_key_is_in_no_repr() -> None:
    assert "secret" not in repr(Config.resolve(api_key="secret"))
    with octavo.Client(api_key="secret") as client:
        assert "secret" not in repr(client)
