"""A real Prometheus, and promtool, from the Debian package."""

import contextlib
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.broker import free_port
from tests.services.install import PROMETHEUS, PROMTOOL
from tests.services.process import ServiceMissing, running


@dataclass(frozen=True)
class PrometheusServer:
    """A server that scrapes what its configuration says."""

    port: int

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that a PromQL expression gives now; ValueError when Prometheus refuses it."""
        parameters = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"{self._url}/api/v1/query?{parameters}", timeout=30) as answer:
                result: dict[str, Any] = json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{expression}: {error.read().decode()}") from None
        if result["resultType"] == "scalar":
            return [{"metric": {}, "value": result["result"]}]
        return list(result["result"])

    def ready(self) -> bool:
        """Whether it answers queries."""
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def prometheus(configuration: str, directory: Path) -> Iterator[PrometheusServer]:
    """A server on a free port with this configuration file's text."""
    directory.mkdir(exist_ok=True)
    (directory / "prometheus.yml").write_text(configuration)
    server = PrometheusServer(free_port("127.0.0.1"))
    command = [
        installed(PROMETHEUS),
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{server.port}",
    ]
    with running(command, ready=server.ready, log=directory / "prometheus.log"):
        yield server


def promtool() -> Path:
    """The checker of configurations, rules and rule tests."""
    return installed(PROMTOOL)


def installed(program: Path) -> Path:
    """The program, or ServiceMissing."""
    if not program.exists():
        raise ServiceMissing(f"{program.name} is not installed: python tests/services/install.py")
    return program
