"""Make octavo/_sync from octavo/_async: `python client/scripts/unasync.py`; `--check` only compares.

The async code is written by hand, the sync code never: each line goes through the substitutions below and the whole
through the formatter. A substitution that no line needs is an error, so that this list stays true.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "octavo"
REPOSITORY = PACKAGE.parents[1]  # ruff reads its settings, and resolves paths in them, from here

SUBSTITUTIONS = [
    (r"AsyncGenerator\[(\w+), None\]", r"Generator[\1, None, None]"),
    (r"Async([A-Z]\w*)", r"\1"),
    (r"async def", "def"),
    (r"async with", "with"),
    (r"async for", "for"),
    (r"await ", ""),
    (r"__aenter__", "__enter__"),
    (r"__aexit__", "__exit__"),
    (r"aclosing", "closing"),
    (r"aclose", "close"),
    (r"aread\b", "read"),
    (r"aiter_(\w+)", r"iter_\1"),
    (r"asynccontextmanager", "contextmanager"),
    (r"async_(\w+)", r"\1"),
    (r"  # noqa: ASYNC[^\n]*", ""),
    (r"octavo\._async", "octavo._sync"),
]
PATTERNS = [(re.compile(rf"(?<!\w){pattern}"), replacement) for pattern, replacement in SUBSTITUTIONS]
HEADER = "# Made by scripts/unasync.py from octavo/_async: change it there.\n"


def unasync(source: str) -> tuple[str, set[int]]:
    """The sync version of an async source, and which substitutions it needed."""
    used = set()
    for index, (pattern, replacement) in enumerate(PATTERNS):
        source, count = pattern.subn(replacement, source)
        if count:
            used.add(index)
    return HEADER + source, used


def formatted(source: str, name: str) -> str:
    """Imports sorted, `yield from` where it can be, lines wrapped: what taking `async` away leaves in disorder."""
    ruff = [sys.executable, "-m", "ruff"]
    options = ["--quiet", "--stdin-filename", name, "-"]
    for command in (["check", "--select", "I,UP028", "--fix-only", "--unsafe-fixes"], ["format"]):
        source = subprocess.run(  # noqa: S603  # our own files through our own formatter
            [*ruff, *command, *options], cwd=REPOSITORY, input=source, capture_output=True, text=True, check=True
        ).stdout
    return source


def generate() -> dict[str, str]:
    """File name to text of everything in octavo/_sync."""
    used: set[int] = set()
    generated = {}
    for path in sorted((PACKAGE / "_async").glob("*.py")):
        source, needed = unasync(path.read_text())
        used |= needed
        generated[path.name] = formatted(source, str(PACKAGE / "_sync" / path.name))
    unused = [SUBSTITUTIONS[index][0] for index in range(len(SUBSTITUTIONS)) if index not in used]
    if unused:
        raise SystemExit(f"substitutions that nothing needs: {unused}")
    return generated


def stale() -> list[str]:
    """Names of the files in octavo/_sync that are not what octavo/_async makes."""
    generated = generate()
    present = {path.name: path.read_text() for path in (PACKAGE / "_sync").glob("*.py")}
    return sorted(name for name in generated.keys() | present.keys() if generated.get(name) != present.get(name))


def main() -> None:
    """Write octavo/_sync, or with --check say what is stale."""
    if "--check" in sys.argv[1:]:
        names = stale()
        if names:
            raise SystemExit(f"octavo/_sync is not current ({', '.join(names)}): run {Path(__file__).name}")
        return
    generated = generate()
    for path in (PACKAGE / "_sync").glob("*.py"):
        if path.name not in generated:
            path.unlink()
    for name, source in generated.items():
        (PACKAGE / "_sync" / name).write_text(source)


if __name__ == "__main__":
    main()
