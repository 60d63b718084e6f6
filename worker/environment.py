"""Where figures are measured: the CPU, and what it can do. Holds no torch, so that the supervisor can tell it too."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from shared.latency_report import Environment
from shared.quantization_spec import RUNTIMES, Isa, Runtime
from worker.machine_state import cgroup_cpu_limit, governor, has_smt, load_average

_CPUINFO = Path("/proc/cpuinfo")
_ISA_FLAGS: dict[Isa, tuple[str, ...]] = {
    # our name: the kernel's flags that all must be there (x86 `flags`, Arm `Features`)
    "avx2": ("avx2", "fma"),
    "avx512": ("avx512f", "avx512bw", "avx512vl", "avx512dq"),
    "avx512_vnni": ("avx512_vnni",),
    "avx_vnni": ("avx_vnni",),
    "avx512_bf16": ("avx512_bf16",),
    "amx_int8": ("amx_int8",),
    "amx_bf16": ("amx_bf16",),
    "neon": ("asimd",),
    "dotprod": ("asimddp",),
    "i8mm": ("i8mm",),
}
_VENDORS = {
    "GenuineIntel": "intel",
    "AuthenticAMD": "amd",
    "HygonGenuine": "hygon",
    # Arm's implementers, by number
    "0x41": "arm",
    "0x48": "huawei",
    "0x61": "apple",
    "0xc0": "ampere",
}
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY",
    "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_AFFINITY", "KMP_BLOCKTIME",
)  # fmt: skip


def cpu_model_and_isa(cpuinfo: str) -> tuple[str, list[str]]:
    """CPU model and instruction sets that matter to int8 kernels, from the text of /proc/cpuinfo."""
    fields = _first_processor(cpuinfo)
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    model = fields.get("model name") or platform.machine() or "unknown"
    return model, [name for name, needed in _ISA_FLAGS.items() if flags.issuperset(needed)]


def labels_of(cpuinfo: str) -> dict[str, str]:
    """`cpu.vendor`, `cpu.family` and `cpu.model`, as far as the text of /proc/cpuinfo tells them.

    Family and model are the kernel's numbers: on x86 `6` and `143` are a Sapphire Rapids; Arm has its parts instead.
    """
    fields = _first_processor(cpuinfo)
    vendor = fields.get("vendor_id") or fields.get("CPU implementer")
    found = {
        "cpu.vendor": vendor and _VENDORS.get(vendor, vendor.lower()),
        "cpu.family": fields.get("cpu family") or fields.get("CPU architecture"),
        "cpu.model": fields.get("model") or fields.get("CPU part"),
    }
    return {name: value for name, value in found.items() if value}


def _first_processor(cpuinfo: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields


def cpu() -> tuple[str, list[str]]:
    """CPU model and instruction sets of this machine."""
    return cpu_model_and_isa(_cpuinfo())


def cpu_labels() -> dict[str, str]:
    """What a worker can be asked for by name on this machine: `arch` and, where known, `cpu.…`."""
    return {"arch": platform.machine(), **labels_of(_cpuinfo())}


def _cpuinfo() -> str:
    try:
        return _CPUINFO.read_text()
    except OSError:  # not Linux, or not readable in the sandbox
        return ""


def describe_environment(qengine: str, sandbox_level: str, *, threads: int | None = None) -> Environment:
    """This machine, the versions that ran, and how many threads the job computed with."""
    model, isa = cpu()
    cores = sorted(os.sched_getaffinity(0))
    settings = {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ}
    return Environment(
        cpu_model=model,
        isa=isa,
        cores=len(cores),
        torch=_version("torch"),
        python=platform.python_version(),
        qengine=qengine,
        octavo=_version("octavo-server"),
        sandbox_level=sandbox_level,
        affinity=cores,
        smt=has_smt(),
        governor=governor(cores[0]),
        cgroup_cpu_limit=cgroup_cpu_limit(),
        load_average=load_average(),
        versions={"numpy": _version("numpy"), **runtimes_beside_torch()},
        thread_settings=settings if threads is None else {"job": str(threads)} | settings,
    )


def installed_runtimes() -> dict[Runtime, str]:
    """Those that there are artifacts for, with their versions, torch first; imports none of them."""
    found = {name: _installed_version(name) for name in RUNTIMES}
    return {name: told for name, told in found.items() if told is not None}


def runtimes_beside_torch() -> dict[str, str]:
    """Likewise, for where torch is told already."""
    return {name: told for name, told in installed_runtimes().items() if name != "torch"}


def _version(distribution: str) -> str:
    return _installed_version(distribution) or "unknown"


def _installed_version(distribution: str) -> str | None:
    try:
        # None in spite of its type, where a sandbox hides the file.
        return version(distribution) or "unknown"
    except PackageNotFoundError:
        return None
