"""The `octavo` command.

Data goes to stdout, progress and advice to stderr. Exit codes: 0 ok, 1 error, 2 usage, 4 not authorised, 5 job failed,
6 accuracy target not met, 7 gave up waiting, 130 interrupted.
"""

from __future__ import annotations

import os
from typing import Any

import click

from octavo._version import __version__
from octavo.cli.artifacts import artifacts
from octavo.cli.benchmark import benchmark
from octavo.cli.jobs import jobs
from octavo.cli.objects import datasets, models
from octavo.cli.output import coloured, message
from octavo.cli.plan import plan
from octavo.cli.quantize import quantize
from octavo.cli.reports import compare, report
from octavo.cli.server import doctor, meta

EXIT_ERROR = 1
EXIT_AUTH = 4
EXIT_JOB_FAILED = 5
EXIT_TARGET_NOT_MET = 6
EXIT_WAIT_TIMEOUT = 7
EXIT_INTERRUPTED = 130


class _Octavo(click.Group):
    """A group whose errors are told on stderr and end in the exit codes above."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.Abort, KeyboardInterrupt):
            ctx.exit(EXIT_INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:
            code = _exit_code(error)
            if code is None:
                raise
            message(coloured("Error:", "red"), f" {error}")
            ctx.exit(code)


@click.group("octavo", cls=_Octavo, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--url", metavar="URL", help="The server; without it OCTAVO_URL, then http://127.0.0.1:8080.")
@click.version_option(__version__)
@click.pass_context
def main(context: click.Context, url: str | None) -> None:
    """Quantize PyTorch models on an Octavo server, and measure models.

    \b
    octavo doctor                                          is everything in place?
    octavo plan net.pt2                                    what would be quantized, and how long would it take?
    octavo quantize net.pt2 --method dynamic --wait        int8 weights, needs no data
    octavo quantize net.pt2 --calibration images.npz --evaluation test.npz --wait
    octavo quantize --from job_019abc… --apply 0 --wait    again, as the report advises
    octavo artifacts download job_019abc… -o out/
    octavo benchmark net.pt2 job_019abc… theirs.onnx --evaluation test.npz --wait

    The server is OCTAVO_URL, the key OCTAVO_API_KEY. Data goes to stdout and everything else to stderr; --json gives
    data as the HTTP API does.

    Exit codes: 0 ok, 1 error, 2 usage, 4 not authorised, 5 job failed, 6 accuracy target not met, 7 gave up waiting,
    130 interrupted.
    """
    if os.environ.get("NO_COLOR"):
        context.color = False
    context.obj = url


for command in (models, datasets, plan, quantize, benchmark, jobs, report, compare, artifacts, meta, doctor):
    main.add_command(command)


def _exit_code(error: Exception) -> int | None:
    """The exit code of an error that was foreseen."""
    import octavo as sdk  # noqa: PLC0415  # `octavo --help` does without pydantic

    if isinstance(error, sdk.AuthenticationError | sdk.PermissionDeniedError):
        return EXIT_AUTH
    if isinstance(error, sdk.JobFailed | sdk.JobCancelled):
        return EXIT_JOB_FAILED
    if isinstance(error, sdk.TargetNotMet):
        return EXIT_TARGET_NOT_MET
    if isinstance(error, sdk.WaitTimeout):
        return EXIT_WAIT_TIMEOUT
    if isinstance(error, BrokenPipeError):
        return None  # the reader of stdout has seen enough, as `head` does: click ends quietly
    return EXIT_ERROR if isinstance(error, sdk.OctavoError | OSError) else None
