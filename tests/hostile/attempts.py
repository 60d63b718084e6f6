"""What code from a hostile model may try, each tried for real, from an open or a locked-down interpreter.

python -I attempts.py open|locked FOLDER OUTSIDE VICTIM_PID → one JSON object on stdout: name → "allowed" or the error.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from seccompy import syscall_nr

from worker.machine_state import cgroup_cpu_files
from worker.sandbox import SandboxLevel, SandboxLimits, lock_down

MEMORY_BYTES = 1024**3
FILE_BYTES = 1024**2
LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Place:
    """Where the attempts are made: `folder`, a job's, is allowed, `outside` and the process `victim` are not."""

    mode: str
    folder: Path
    outside: Path
    victim: int

    @property
    def asked(self) -> Path:
        return self.folder / "job.json"

    @property
    def rival(self) -> Path:
        return self.folder / "inputs" / "candidate-1.onnx"

    @property
    def data(self) -> Path:
        return self.folder / "inputs" / "evaluation.npz"

    @property
    def scratch(self) -> Path:
        return self.folder / "tmp"

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    def create(self) -> None:
        """What the supervisor makes before a runner starts."""
        for each in (self.rival.parent, self.scratch, self.outputs):
            each.mkdir()
        for given in (self.asked, self.rival, self.data):
            given.write_text("given")


def libc(name: str, *arguments: object) -> None:
    if getattr(LIBC, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)


def fork() -> None:
    if os.fork() == 0:
        os._exit(0)
    os.wait()


def fork_bomb() -> None:
    children = 0
    for _ in range(64):
        with contextlib.suppress(OSError):
            if os.fork() == 0:
                os._exit(0)
            children += 1
    if not children:
        raise OSError(errno.ENOSYS, "no child came to be")


def truncate_what_may_be_read(path: Path) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_TRUNC))


def write_through_a_mapping(path: Path) -> None:
    """As `torch.from_file(shared=True)` does, which TorchScript knows."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:1] = b"!"


def move_and_put_back(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere")).rename(folder)


def put_another_in_its_place(place: Place) -> None:
    (place.scratch / "other").write_text("slower")
    (place.scratch / "other").rename(place.rival)


def write_much(place: Place) -> None:
    with (place.scratch / "much").open("wb") as file:
        file.write(bytes(2 * FILE_BYTES))


def signal_by_owned_file(place: Place) -> None:
    reader, _ = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETOWN, place.victim)


def run_thread() -> None:
    done = []
    thread = threading.Thread(target=done.append, args=(1,))
    thread.start()
    thread.join()
    if done != [1]:
        raise RuntimeError


def rename_across_folders(place: Place) -> None:
    (place.scratch / "sub").mkdir(exist_ok=True)
    (place.scratch / "here").write_text("x")
    (place.scratch / "here").rename(place.scratch / "sub" / "there")
    (place.scratch / "sub" / "there").rename(place.outputs / "there")


def import_lazily() -> None:
    import decimal  # noqa: F401
    import sqlite3  # noqa: F401


def temporary_file(place: Place) -> None:
    with tempfile.NamedTemporaryFile(dir=place.scratch) as file:
        file.write(b"x")


def forbidden(place: Place) -> dict[str, Callable[[], object]]:
    """What an open process may do and a locked-down one may not."""
    return {
        "read /etc/passwd": Path("/etc/passwd").read_text,
        "read another folder": (place.outside / "file").read_text,
        "list another folder": lambda: list(place.outside.iterdir()),
        "write into another folder": lambda: (place.outside / f"new-{place.mode}").write_text("x"),
        "truncate a file elsewhere": partial(truncate_what_may_be_read, place.outside / "file"),
        "change what is asked": lambda: place.asked.write_text("{}"),
        "write beside what is asked": lambda: (place.folder / "new").write_text("x"),
        "move a folder of the job": partial(move_and_put_back, place.outputs),
        "write an input through a mapping": partial(write_through_a_mapping, place.rival),
        "change an input": lambda: place.rival.write_text("slower"),
        "truncate an input": partial(truncate_what_may_be_read, place.rival),
        "put another input in its place": partial(put_another_in_its_place, place),
        "move an input away": lambda: place.rival.rename(place.scratch / "moved"),
        "delete an input": place.data.unlink,
        "add an input": lambda: (place.rival.parent / "new").write_text("x"),
        "change a mode elsewhere": lambda: (place.outside / "file").chmod(0o777),
        "change times elsewhere": lambda: os.utime(place.outside / "file"),
        "plant a symbolic link": lambda: (place.scratch / f"link-{place.mode}").symlink_to("/etc/passwd"),
        "link a file from elsewhere": lambda: os.link(place.outside / "file", place.scratch / f"hard-{place.mode}"),
        "watch another folder": lambda: libc(
            "inotify_add_watch", LIBC.inotify_init1(0), str(place.outside).encode(), 2
        ),
        "TCP socket": socket.socket,
        "UDP socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "UNIX socket": lambda: socket.socket(socket.AF_UNIX),
        "socket pair": socket.socketpair,
        "start a program": lambda: subprocess.run(["/bin/true"], check=True),
        "fork": fork,
        "fork bomb": fork_bomb,
        "signal another process": lambda: os.kill(place.victim, 0),
        "signal a process by a file it owns": partial(signal_by_owned_file, place),
        "read another's environment": Path(f"/proc/{place.victim}/environ").read_bytes,
        "read a process's memory": lambda: libc("process_vm_readv", os.getpid(), None, 0, None, 0, 0),
        "memory that no limit counts": lambda: os.memfd_create("x"),
        "allocate beyond the limit": lambda: bytearray(2 * MEMORY_BYTES),
        "write beyond the limit": partial(write_much, place),
        "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2 * FILE_BYTES, -1)),
        "outlive the supervisor": lambda: libc("prctl", 1, 0, 0, 0, 0),
    }


def privileged(place: Place) -> dict[str, Callable[[], object]]:
    """What only some machines allow even to an open process: tried from the locked-down one alone."""
    return {
        "read another's memory": lambda: Path(f"/proc/{place.victim}/mem").open("rb"),
        "trace another process": lambda: libc("ptrace", 16, place.victim, None, None),
        "be traced": lambda: libc("ptrace", 0, 0, None, None),
        "new user namespace": lambda: libc("unshare", 0x10000000),
        "mount": lambda: libc("mount", b"none", str(place.folder).encode(), b"tmpfs", 0, None),
        "change root": lambda: os.chroot(place.folder),
        "become another user": lambda: os.setuid(12345),
        "execve of an open file": lambda: os.execve(os.open("/proc/self/exe", os.O_RDONLY), ["x"], {}),
        "x32 system call": lambda: libc("syscall", 0x40000000 + 39),
        "io_uring": lambda: libc("syscall", syscall_nr("io_uring_setup"), 1, ctypes.create_string_buffer(256)),
        "clone3": lambda: libc("syscall", syscall_nr("clone3"), ctypes.create_string_buffer(88), 88),
        "keyring": lambda: libc("syscall", syscall_nr("keyctl"), 0, -3, 0),
        "bpf": lambda: libc("syscall", syscall_nr("bpf"), 0, ctypes.create_string_buffer(128), 128),
        "perf": lambda: libc("syscall", syscall_nr("perf_event_open"), ctypes.create_string_buffer(128), 0, -1, -1, 0),
        "userfaultfd": lambda: libc("syscall", syscall_nr("userfaultfd"), 1),
    }


def needed(place: Place) -> dict[str, Callable[[], object]]:
    """What every process may do."""
    return {
        "read what is asked": place.asked.read_text,
        "list the inputs": lambda: list(place.rival.parent.iterdir()),
        "write an output": lambda: (place.outputs / "mine").write_text("x"),
        "rename across its folders": partial(rename_across_folders, place),
        "temporary file": partial(temporary_file, place),
        "thread": run_thread,
        "import lazily": import_lazily,
        "read the CPU's description": Path("/proc/cpuinfo").read_text,
        "read the load": os.getloadavg,
        "read what its control group was denied": lambda: [file.read_text() for file in cgroup_cpu_files()],
        "run on one core": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
        "signal itself": lambda: os.kill(os.getpid(), 0),
        "random bytes": lambda: os.urandom(8),
        "/dev/null": lambda: Path("/dev/null").write_text("x"),
    }


def attempt(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "OSError")
    except (MemoryError, RuntimeError, ValueError) as error:
        return type(error).__name__
    return "allowed"


def main() -> None:
    mode, folder, outside, victim = sys.argv[1:]
    place = Place(mode, Path(folder), Path(outside), int(victim))
    place.create()
    attempts = forbidden(place) | needed(place)
    if mode == "locked":
        limits = SandboxLimits(memory_bytes=MEMORY_BYTES, file_bytes=FILE_BYTES)
        assert lock_down(place.folder, limits) is SandboxLevel.LANDLOCK
        attempts |= privileged(place)
    print(json.dumps({name: attempt(action) for name, action in attempts.items()}))  # noqa: T201 - its answer


if __name__ == "__main__":
    main()
