"""The system calls that a locked-down process keeps; every other one answers ENOSYS, as if the kernel had none of it.

An allow-list, so that calls of other ABIs (x32), of newer kernels, and all that is not computing on files of one folder
need no rule. ENOSYS, because the C library then falls back, as from clone3 (whose flags a filter cannot see) to clone.

Left out on purpose: sockets, new programs, new processes, ptrace and its kin, mounts and namespaces, keys, BPF,
io_uring, and whatever changes a file's mode, owner, times or attributes, or watches it, which Landlock does not govern.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from seccompy import Action, ArgCmp, CmpOp, Filter

_MEMORY = """brk mmap mprotect munmap mremap madvise msync mincore mlock mlock2 munlock membarrier mbind get_mempolicy
    set_mempolicy pkey_alloc pkey_free pkey_mprotect"""
_THREADS = """futex futex_waitv futex_wake futex_wait futex_requeue set_robust_list get_robust_list set_tid_address rseq
    gettid getpid getppid getpgrp getpgid getsid sched_yield sched_getaffinity sched_setaffinity sched_getparam
    sched_getscheduler sched_get_priority_max sched_get_priority_min sched_getattr getcpu arch_prctl exit exit_group
    restart_syscall wait4 waitid"""
_SIGNALS_OF_ITS_OWN = """rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend
    sigaltstack pause alarm getitimer setitimer"""
_TIME = """clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times timer_create timer_settime
    timer_gettime timer_getoverrun timer_delete timerfd_create timerfd_settime timerfd_gettime"""
_FILES = """read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 creat close close_range lseek dup
    dup2 dup3 fstat stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getcwd chdir fchdir
    getdents getdents64 mkdir mkdirat rmdir rename renameat renameat2 unlink unlinkat ftruncate fallocate fsync
    fdatasync sync_file_range fadvise64 readahead copy_file_range sendfile flock statfs fstatfs umask pipe pipe2 poll
    ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2"""
_FACTS = """uname sysinfo getrlimit getrusage getuid geteuid getgid getegid getresuid getresgid getgroups getrandom
    getpriority capget"""

_CLONE_THREAD = 0x10000
_PRCTL_HARMLESS = (15, 16, 0x53564D41)  # PR_SET_NAME, PR_GET_NAME, PR_SET_VMA
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: they type into the operator's terminal
_F_SETSIG, _F_SETOWN_EX = 10, 15
_INT = 0xFFFFFFFF  # the kernel reads only these bits of an int argument


def build_filter() -> Filter:
    """The filter for the calling process; it names the process's own id, so build it where it is loaded."""
    filter_ = Filter(default=Action.ERRNO | errno.ENOSYS)
    for name in f"{_MEMORY} {_THREADS} {_SIGNALS_OF_ITS_OWN} {_TIME} {_FILES} {_FACTS}".split():
        _allow(filter_, name)
    _allow(filter_, "clone", ArgCmp(0, CmpOp.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD))
    for name in ("kill", "tgkill"):  # abort() and raise()
        _allow(filter_, name, ArgCmp(0, CmpOp.EQ, os.getpid()))
    for option in _PRCTL_HARMLESS:
        _allow(filter_, "prctl", ArgCmp(0, CmpOp.EQ, option))
    _allow(filter_, "prlimit64", ArgCmp(2, CmpOp.EQ, 0))  # to read a limit, not to set it
    _allow_but(filter_, "ioctl", 1, _INT, _TERMINAL_INPUT)
    # A file that belongs to another process makes signals for it.
    _allow_but(filter_, "fcntl", 1, _INT, (fcntl.F_SETOWN, _F_SETSIG, _F_SETOWN_EX))
    # Before ABI 3 Landlock lets a file be truncated that may only be read.
    truncating = (os.O_TRUNC | os.O_RDONLY, os.O_TRUNC | os.O_ACCMODE)
    for name, flags in (("open", 1), ("openat", 2)):
        _allow_but(filter_, name, flags, os.O_TRUNC | os.O_ACCMODE, truncating)
    return filter_


def _allow(filter_: Filter, name: str, *conditions: ArgCmp) -> None:
    with contextlib.suppress(ValueError):  # aarch64 never had open, stat, fork and other old calls
        filter_.allow(name, args=conditions)


def _allow_but(filter_: Filter, name: str, argument: int, mask: int, refused: tuple[int, ...]) -> None:
    with contextlib.suppress(ValueError):
        for value in refused:
            filter_.errno(name, errno.EPERM, args=[ArgCmp(argument, CmpOp.MASKED_EQ, value, mask)])
        filter_.allow(name)
