"""The report of a job, as people meet it: the measurements, with their text, their HTML and what to do next."""

from __future__ import annotations

from octavo._html import report_card
from octavo._job_report import JobReport, Suggestion
from octavo._tables import report_table


class Report(JobReport):
    """The answer to a job; in a notebook it shows itself."""

    @property
    def suggestions(self) -> list[Suggestion]:
        """What the warnings advise, the most telling first; `job.retry_with(suggestion)` does it."""
        return [warning.suggestion for warning in self.warnings if warning.suggestion is not None]

    def table(self) -> str:
        """The report as plain text, for a terminal."""
        return report_table(self)

    def _repr_html_(self) -> str:
        return report_card(self)
