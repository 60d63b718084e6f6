"""Run every benchmark, one after the other, and write their figures as one table: `make bench`."""

from __future__ import annotations

import sys

from measuring import RESULTS, figures_of, run_script

SCRIPTS = (
    "job_overhead", "cancel", "upload", "api_load", "memory", "analysis", "interval_coverage", "quality",
    "peers", "plan_ahead", "qat_recovery",
)  # fmt: skip


def main() -> None:
    """Run, tabulate, and fail when a script failed; a figure over its limit is shown, not an error."""
    failed = [name for name in SCRIPTS if not run_script(name)]
    tabulate()
    if failed:
        sys.exit(f"These did not come to their end: {', '.join(failed)}")


def tabulate() -> None:
    """Write results/figures.md from the JSON files."""
    lines = [
        "# Figures",
        "",
        "From the JSON files beside this one, which hold the raw samples, the machine, its load and the revision.",
        "Quality beside ONNX Runtime's and NNCF's own quantization, family by family: [quality.md](quality.md); the",
        "speed of what each makes: [peers.md](peers.md).",
        "",
    ]
    lines += ["| Figure | Measured | Limit | |", "|---|---|---|---|"]
    for name in SCRIPTS:
        path = RESULTS / f"{name}.json"
        for figure in figures_of(path) if path.exists() else []:
            limit = "" if figure.limit is None else f"{figure.limit:g} {figure.unit}"
            verdict = "" if figure.limit is None else ("met" if figure.met else "**missed**")
            lines.append(f"| {figure.name} | {figure.value:.3g} {figure.unit} | {limit} | {verdict} |")
    (RESULTS / "figures.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
