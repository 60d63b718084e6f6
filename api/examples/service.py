"""The service itself."""

from __future__ import annotations

from typing import Any

HEALTH: dict[str, Any] = {"status": "ok"}
READY: dict[str, Any] = {
    "status": "ready",
    "checks": {
        "database": {"ok": True, "detail": None},
        "object_store": {"ok": True, "detail": None},
        "broker": {"ok": True, "detail": None},
        "workers": {"ok": True, "detail": "1 alive"},
    },
}
NOT_READY: dict[str, Any] = {
    "status": "unavailable",
    "checks": {**READY["checks"], "object_store": {"ok": False, "detail": "The object store does not answer."}},
}
METRICS = '# TYPE octavo_jobs gauge\noctavo_jobs{method="static",status="queued"} 3.0\n'
META: dict[str, Any] = {
    "version": "0.1.0",
    "api": "v1",
    "methods": ["dynamic", "static", "qat", "benchmark"],
    "workers": [
        {
            "id": "wrk_019abc5d0000aabbccddeeff",
            "hostname": "node-1",
            "cpu_model": "AMD EPYC 9354",
            "isa": ["avx2", "avx512", "avx512_vnni"],
            "cores": 2,
            "torch": "2.13.0",
            "sandbox_level": "landlock",
            "concurrency": 1,
            "labels": {"arch": "x86_64", "cpu.vendor": "amd", "cpu.family": "25", "cpu.model": "17", "pool": "edge"},
            "status": "idle",
            "heartbeat_at": "2026-11-23T13:00:15Z",
        }
    ],
    "limits": {
        "max_upload_bytes": 17_179_869_184,
        "part_size_bytes": 16_777_216,
        "max_json_bytes": 1_048_576,
        "upload_expire_seconds": 86_400.0,
        "wall_limit_seconds": 21_600.0,
        "max_attempts": 5,
    },
}
