"""The boundary that an uploaded model lives behind: the calling process gives up everything but one job's folder.

A model file can run code when it is loaded (`shared/model_file.py` says how), and a loader's bug can be one nobody
knows yet. So the process that loads it first locks itself down, and cannot undo that:

- Landlock: reads only Python, its packages, the system's libraries, what CPU detection needs and what tells whether a
  measurement was disturbed, and the folder, and writes only the folder's outputs/ and tmp/: what is asked and what was
  fetched stay as they were for the stages that follow;
- seccomp: no socket, no new program, no new process (threads work), no signal to others, no change to file metadata,
  nothing of the kernel that computing does not need; calls that are not on the list do not exist;
- no capability, no way to gain one, no debugger, and limits on memory, file size, open files and core dumps.

Landlock does not hide whether a path exists, and none of this stops a bug of the kernel: run the worker in a container
or a virtual machine of its own where that matters. https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import landlockpy
import seccompy
from landlockpy import AccessFS, Scope
from pydantic import BaseModel, ConfigDict, Field
from seccompy.syscalls import arch

from worker.energy import energy_files
from worker.job_folder import JobFolder
from worker.machine_state import cgroup_cpu_files
from worker.syscall_filter import build_filter

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522

# Of the system, what Python, torch and the C library open while they run: code and CPU topology, nothing of the users'.
_READABLE = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/dev/urandom", "/dev/zero",
    "/proc/cpuinfo", "/proc/loadavg", "/proc/meminfo", "/proc/stat", "/proc/self", "/proc/sys/vm",
    "/sys/devices/system", "/sys/kernel/mm/transparent_hugepage",
)  # fmt: skip
_READ = AccessFS.READ_FILE | AccessFS.READ_DIR
_WRITE = (
    AccessFS.WRITE_FILE | AccessFS.TRUNCATE | AccessFS.MAKE_REG | AccessFS.MAKE_DIR
    | AccessFS.REMOVE_FILE | AccessFS.REMOVE_DIR | AccessFS.REFER
)  # fmt: skip


class SandboxLevel(StrEnum):
    """How far a process is locked down, from least to most."""

    NONE = "none"  #: not at all: the platform is not Linux
    RLIMITS = "rlimits"  #: memory, file size, no new privileges; the file system and the network are open
    LANDLOCK = "landlock"  #: that, Landlock and seccomp: one job's folder, no network, no other process

    def reaches(self, minimum: SandboxLevel) -> bool:
        """Whether this level is at least as strong as the minimum."""
        order = list(SandboxLevel)
        return order.index(self) >= order.index(minimum)


class SandboxLimits(BaseModel):
    """What a locked-down process may use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory_bytes: int = Field(gt=0, description="Private memory; files mapped for reading do not count.")
    file_bytes: int = Field(gt=0, description="The largest file that it may write.")
    open_files: int = Field(default=1024, gt=0)


def probe_level() -> SandboxLevel:
    """The level that a process on this node can reach; asks the kernel, changes nothing."""
    if sys.platform != "linux":
        return SandboxLevel.NONE
    return SandboxLevel.LANDLOCK if landlockpy.supported() and _seccomp_supported() else SandboxLevel.RLIMITS


def require_single_thread() -> None:
    """Raise RuntimeError if other threads run: locking down would leave them out, and a fork leaves them behind."""
    if (threads := sum(1 for _ in Path("/proc/self/task").iterdir())) != 1:
        raise RuntimeError(f"{threads} threads run already: those would stay outside of the sandbox")


def lock_down(folder: Path, limits: SandboxLimits) -> SandboxLevel:
    """Lock the calling process into a job's folder, for good, and return the level reached.

    The process must be single-threaded: filters bind the calling thread and the threads it starts later. Raises
    RuntimeError when it is not.
    """
    if sys.platform != "linux":
        return SandboxLevel.NONE
    require_single_thread()
    landlock, seccomp = landlockpy.supported(), _seccomp_supported()
    _limit_resources(limits)
    libc = ctypes.CDLL(None, use_errno=True)
    _call(libc.prctl, _PR_SET_DUMPABLE, 0, 0, 0, 0)
    _call(libc.prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if landlock:
        _restrict_files(JobFolder(folder))
    _drop_capabilities(libc)
    if seccomp:
        build_filter().load()
    return SandboxLevel.LANDLOCK if landlock and seccomp else SandboxLevel.RLIMITS


def _seccomp_supported() -> bool:
    try:
        arch()
    except seccompy.UnsupportedError:
        return False
    return seccompy.supported()


def _limit_resources(limits: SandboxLimits) -> None:
    wanted = {
        # Not RLIMIT_AS: torch maps far more addresses than it uses, and mapped weights would count.
        resource.RLIMIT_DATA: limits.memory_bytes,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in wanted.items():
        _, hard = resource.getrlimit(kind)
        limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (limit, limit))


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Root keeps its uid and loses its powers; a user without powers loses nothing."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _call(libc.capset, header, (ctypes.c_uint32 * 6)())


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _restrict_files(folder: JobFolder) -> None:
    with landlockpy.Ruleset(scoped=Scope.SIGNAL | Scope.ABSTRACT_UNIX_SOCKET) as ruleset:
        for path in _readable_paths():
            with contextlib.suppress(FileNotFoundError, PermissionError):  # then it cannot be read anyhow
                ruleset.allow_path(path, _READ if Path(path).is_dir() else AccessFS.READ_FILE)
        ruleset.allow_path("/dev/null", AccessFS.READ_FILE | AccessFS.WRITE_FILE)
        ruleset.allow_path(folder.path, _READ)
        for writable in (folder.outputs, folder.tmp):
            ruleset.allow_path(writable, _READ | _WRITE)
        ruleset.restrict()


def _readable_paths() -> list[str]:
    """Python's own files, the two packages of this program that run here, and the system's libraries.

    Not all of sys.path: with an editable installation the project's root would be among it, and the data directory
    with the API key is often below that.
    """
    import shared  # noqa: PLC0415 - only to learn where it lies
    import worker  # noqa: PLC0415

    packages = [os.path.dirname(str(package.__file__)) for package in (shared, worker)]  # noqa: PTH120 - strings here
    python = [f"{prefix}/{part}" for prefix in (sys.prefix, sys.base_prefix) for part in ("lib", "lib64")]
    # Whether its control group was throttled is what a measurement must know, and these files tell no more than that.
    # Energy tells what other processes compute: it is for jobs only where the node lets every process read it.
    return [*_READABLE, *python, *packages, *map(str, (*cgroup_cpu_files(), *energy_files()))]
