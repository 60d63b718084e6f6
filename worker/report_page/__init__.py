"""`report.html`: the report of a job as one self-contained page, made of the report alone."""

from worker.report_page.page import render_page

__all__ = ["render_page"]
