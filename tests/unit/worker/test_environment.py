"""What is said of the machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import get_args

import numpy as np
import pytest
import torch

from shared.quantization_spec import RUNTIMES, Isa
from worker import environment as environment_module
from worker.environment import (
    _ISA_FLAGS,
    cpu_labels,
    cpu_model_and_isa,
    describe_environment,
    installed_runtimes,
    labels_of,
    runtimes_beside_torch,
)

X86 = """\
processor\t: 0
model name\t: Some Xeon
flags\t\t: fpu avx avx2 fma avx512f avx512bw avx512vl avx512dq avx512_vnni
processor\t: 1
model name\t: Another
flags\t\t: fpu
"""
ARM = "processor : 0\nFeatures : fp asimd asimddp i8mm\n"


def test_x86_isa_is_read_from_the_first_processor() -> None:
    assert cpu_model_and_isa(X86) == ("Some Xeon", ["avx2", "avx512", "avx512_vnni"])


def test_arm_isa_is_read_from_its_features() -> None:
    assert cpu_model_and_isa(ARM)[1] == ["neon", "dotprod", "i8mm"]


def test_every_isa_that_a_job_can_ask_for_is_one_that_workers_find() -> None:
    assert set(get_args(Isa)) == set(_ISA_FLAGS)


def test_a_cpu_is_labelled_with_its_vendor_family_and_model() -> None:
    """Of x86 the kernel's numbers, of Arm the implementer, the architecture and the part; nothing that is not told."""
    x86 = "vendor_id : GenuineIntel\ncpu family : 6\nmodel : 143\nmodel name : Some Xeon\n"
    assert labels_of(x86) == {"cpu.vendor": "intel", "cpu.family": "6", "cpu.model": "143"}
    arm = "CPU implementer : 0x41\nCPU architecture: 8\nCPU part : 0xd40\n"
    assert labels_of(arm) == {"cpu.vendor": "arm", "cpu.family": "8", "cpu.model": "0xd40"}
    assert labels_of("vendor_id : CyrixInstead\n") == {"cpu.vendor": "cyrixinstead"}
    assert labels_of("") == {}
    assert cpu_labels()["arch"] == platform.machine()


def test_a_machine_without_cpuinfo_still_has_a_name() -> None:
    model, isa = cpu_model_and_isa("")
    assert model
    assert isa == []


def test_the_environment_names_the_versions_that_run() -> None:
    environment = describe_environment("x86", "landlock")
    assert environment.torch == torch.__version__
    assert environment.python == platform.python_version()
    assert (environment.qengine, environment.sandbox_level) == ("x86", "landlock")
    assert environment.octavo != "unknown"
    assert environment.cores >= 1


def test_the_installed_runtimes_are_told_with_their_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(installed_runtimes().items()) == [(name, version(name)) for name in RUNTIMES]
    assert runtimes_beside_torch() == {name: version(name) for name in ("onnxruntime", "openvino")}
    monkeypatch.setattr(environment_module, "RUNTIMES", ("onnxruntime", "no-such-runtime"))
    assert installed_runtimes() == {"onnxruntime": version("onnxruntime")}


def test_the_environment_names_cores_load_and_thread_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    environment = describe_environment("x86", "landlock", threads=2)
    assert environment.affinity == sorted(os.sched_getaffinity(0))
    assert environment.thread_settings["job"] == "2"
    assert environment.thread_settings["OMP_NUM_THREADS"] == "3"
    assert environment.load_average is not None
    assert len(environment.load_average) == 3
    assert environment.versions["numpy"] == np.__version__
