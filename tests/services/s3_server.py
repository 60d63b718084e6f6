"""A real S3-compatible server: OpenStack Swift from PyPI, in a virtual environment of its own.

Its dependencies must never meet Octavo's: `install.py` puts it into `.tools/swift`.
"""

import contextlib
import secrets
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from server.broker import free_port
from shared.settings import StorageSettings
from tests.services.install import SWIFT_PYTHON
from tests.services.process import ServiceMissing, running

_PROGRAM = Path(__file__).with_name("swift_server.py")


@dataclass(frozen=True)
class S3Server:
    """Where it is and who may use it."""

    port: int
    process: subprocess.Popen[bytes] | None = None
    access_key: str = "octavo:tester"
    secret_key: str = "not-a-secret"

    @property
    def endpoint_url(self) -> str:
        """For StorageSettings and boto3."""
        return f"http://127.0.0.1:{self.port}"

    def settings(self, **more: object) -> StorageSettings:
        """Storage settings with a new bucket; the store's `prepare()` makes it."""
        return StorageSettings.model_validate(
            {
                "kind": "s3",
                "bucket": f"test-{secrets.token_hex(6)}",
                "endpoint_url": self.endpoint_url,
                "access_key_id": SecretStr(self.access_key),
                "secret_access_key": SecretStr(self.secret_key),
                **more,
            }
        )

    def answers(self) -> bool:
        """Whether it answers HTTP at all; without credentials that is a 403."""
        try:
            urllib.request.urlopen(self.endpoint_url, timeout=2).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True


@contextlib.contextmanager
def s3_server(directory: Path) -> Iterator[S3Server]:
    """A server on a free port whose disk is this directory."""
    if not SWIFT_PYTHON.exists():
        raise ServiceMissing("The S3 server is not installed: python tests/services/install.py")
    directory.mkdir(exist_ok=True)
    server = S3Server(free_port("127.0.0.1"))
    command = [SWIFT_PYTHON, _PROGRAM, directory, str(server.port), server.access_key, server.secret_key]
    with running(command, ready=server.answers, log=directory / "swift.log", environment={}) as process:
        yield S3Server(server.port, process)
