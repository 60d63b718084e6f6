"""The report of a job, as people meet it: the measurements, with their text, their HTML and what to do next."""

from __future__ import annotations

from octavo._html import report_card
from octavo._job_report import JobReport, ReportWarning, Suggestion
from octavo._printable import printable
from octavo._report_text import report_text


class Report(JobReport):
    """The answer to a job; in a notebook it shows itself."""

    @property
    def suggestions(self) -> list[Suggestion]:
        """What the warnings advise, the most telling first; `job.retry_with(suggestion)` does it."""
        return [warning.suggestion for warning in self.warnings if warning.suggestion is not None]

    @property
    def recommended_files(self) -> list[str]:
        """The recommended artifact, and the example that loads it; none where none is recommended."""
        for each in self.artifacts:
            if each.name == self.recommended:
                suffix = "" if each.runtime == "torch" else f"_{each.runtime}"
                return [each.name, f"load_example{suffix}.py"]
        return []

    def warning_number(self, advice: Suggestion | ReportWarning) -> int:
        """The number of the warning that gives this advice: its place in `warnings`.

        Raises:
            ValueError: no warning of this report gives it.
        """
        for number, warning in enumerate(self.warnings):
            if advice in (warning, warning.suggestion):
                return number
        raise ValueError("this is no advice of this job's report: to apply something else, name it as changes")

    def table(self, width: int = 100) -> str:
        """The report as plain text: the verdict, what to do, figures, the worst layers."""
        return printable(report_text(self, width=width))

    def _repr_html_(self) -> str:
        return report_card(self)
