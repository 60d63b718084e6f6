"""What it all rests on: the spec as resolved, the machine, the time it took, the hash of the weights."""

from __future__ import annotations

from shared.benchmark_report import BenchmarkReport
from shared.job_report import JobReport
from shared.latency_report import Environment
from worker.report_page.figures import plural, seconds
from worker.report_page.layout import Column, Section, as_json, definitions, name, note, subheading, table
from worker.report_page.markup import Content, element, join


def provenance(report: JobReport | BenchmarkReport, room: int) -> Section:
    """All that is needed to do the job again."""
    machine = report.environment
    described: list[tuple[str, Content]] = [
        ("CPU", f"{machine.cpu_model}, {plural(machine.cores, 'core')}{_details(machine)}"),
        ("Instruction sets", ", ".join(machine.isa) or "none of those that matter"),
        ("Kernels", machine.qengine),
        ("torch", machine.torch),
        ("Python", machine.python),
        ("Octavo", machine.octavo),
        *((which, version) for which, version in machine.versions.items()),
        *((f"Threads: {which}", value) for which, value in machine.thread_settings.items()),
        ("Load over 1, 5 and 15 minutes", ", ".join(map(str, machine.load_average or [])) or "unknown"),
        ("Sandbox", machine.sandbox_level),
        ("Schema of the report", report.schema_version),
    ]
    parts: list[Content] = [
        subheading("Environment"),
        definitions(described),
    ]
    if isinstance(report, JobReport):
        parts += [subheading("Weights"), _weights(report.weights_sha256)]
    if report.timings:
        columns = [Column("Step"), Column("Time", "number")]
        rows: list[list[Content]] = [[step, seconds(took)] for step, took in report.timings.items()]
        together = note(f"{seconds(sum(report.timings.values()))} together.")
        parts += [subheading("Timings"), together, table("Time by step", columns, rows)]
    parts += [subheading("Spec, with every auto resolved"), as_json(report.spec, room)]
    return Section("provenance", "Spec, environment, timings", join(parts))


def _details(machine: Environment) -> str:
    details = [f"numbers {', '.join(map(str, machine.affinity))}"] if machine.affinity else []
    if machine.smt is not None:
        details.append("several hardware threads a core" if machine.smt else "one hardware thread a core")
    if machine.governor is not None:
        details.append(f"governor {machine.governor}")
    if machine.cgroup_cpu_limit is not None:
        details.append(f"limited to the time of {machine.cgroup_cpu_limit:g}")
    return "".join(f"; {each}" for each in details)


def _weights(sha256: str | None) -> Content:
    if sha256 is None:
        return note("No hash of the int8 weights was taken.")
    told = note("Equal model, data, spec, seed and CPU type give equal int8 weights and qparams, and so this hash:")
    return join([told, element("p", name(sha256, 64), class_="hash")])
