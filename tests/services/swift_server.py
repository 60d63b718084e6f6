"""OpenStack Swift with its S3 API, all four servers in one process, for the interpreter of .tools/swift alone.

Usage: python swift_server.py DIRECTORY PORT ACCESS_KEY SECRET_KEY

Swift is the S3-compatible store that comes from PyPI, answers as AWS does (If-None-Match, SHA-256 of the body, ranges,
presigned URLs) and fsyncs before it answers. Each part is the real one; only the process boundary is left out, as in
Swift's own functional tests. Nothing is read from /etc.
"""

# ruff: noqa: E402 - eventlet must patch the standard library before anything else is imported
import eventlet

eventlet.monkey_patch()

import sys
from pathlib import Path

import eventlet.wsgi
from swift.account.server import AccountController
from swift.common import constraints, storage_policy, utils
from swift.common.http_protocol import SwiftHttpProtocol
from swift.common.ring import RingData
from swift.common.wsgi import loadapp
from swift.container.server import ContainerController
from swift.obj.server import ObjectController

SWIFT_CONF = """
[swift-hash]
swift_hash_path_suffix = octavo
"""

PROXY_CONF = """
[DEFAULT]
swift_dir = {directory}

[pipeline:main]
pipeline = catch_errors listing_formats s3api tempauth slo proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true

[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{user} = {secret_key} .admin

[filter:s3api]
use = egg:swift#s3api
s3_acl = false

[filter:catch_errors]
use = egg:swift#catch_errors

[filter:listing_formats]
use = egg:swift#listing_formats

[filter:slo]
use = egg:swift#slo
"""


def serve(directory: Path, port: int, access_key: str, secret_key: str) -> None:
    """Serve until killed."""
    account, user = access_key.split(":")
    (directory / "disk").mkdir(parents=True, exist_ok=True)
    (directory / "swift.conf").write_text(SWIFT_CONF)
    proxy_conf = directory / "proxy-server.conf"
    proxy_conf.write_text(PROXY_CONF.format(directory=directory, account=account, user=user, secret_key=secret_key))

    backends = {name: eventlet.listen(("127.0.0.1", 0)) for name in ("account", "container", "object")}
    for name, listener in backends.items():
        device = {
            "id": 0, "region": 1, "zone": 1, "weight": 1.0, "device": "disk",
            "ip": "127.0.0.1", "port": listener.getsockname()[1],
        }  # fmt: skip
        # One replica of four partitions, all on the one disk.
        RingData([[0, 0, 0, 0]], [device], 30).save(str(directory / f"{name}.ring.gz"))

    utils.set_swift_dir(str(directory))
    constraints.reload_constraints()
    storage_policy.reload_storage_policies()

    conf = {"devices": str(directory), "swift_dir": str(directory), "mount_check": "false"}
    controllers = {"account": AccountController, "container": ContainerController, "object": ObjectController}
    for name, listener in backends.items():
        eventlet.spawn(_run, listener, controllers[name](conf))
    _run(eventlet.listen(("127.0.0.1", port)), loadapp(str(proxy_conf)))


def _run(listener, app) -> None:  # noqa: ANN001 - eventlet's and Swift's own untyped objects
    eventlet.wsgi.server(listener, app, log=utils.NullLogger(), protocol=SwiftHttpProtocol, keepalive=30)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
