"""Run every benchmark, one after the other, and write their figures as one table: `make bench`."""

from __future__ import annotations

import sys

from measuring import RESULTS, figures_of, run_script

SCRIPTS = ("job_overhead", "upload", "api_load", "memory")


def main() -> None:
    """Run, tabulate, and fail when a script failed; a figure over its limit is shown, not an error."""
    failed = [name for name in SCRIPTS if not run_script(name)]
    lines = [
        "# Figures",
        "",
        "Written by `make bench`; raw samples and the machine are in the JSON files beside this one.",
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
    if failed:
        sys.exit(f"These did not come to their end: {', '.join(failed)}")


if __name__ == "__main__":
    main()
