"""The `octavo` command.

Data goes to stdout, progress and advice to stderr. Exit codes: 0 ok, 1 error, 2 usage, 4 not authorised, 5 job failed,
6 accuracy target not met, 7 gave up waiting, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from octavo._version import __version__
from octavo.cli.artifacts import artifacts, report
from octavo.cli.jobs import jobs
from octavo.cli.objects import datasets, models
from octavo.cli.output import message
from octavo.cli.quantize import quantize
from octavo.cli.server import doctor, meta

EXIT_ERROR, EXIT_USAGE, EXIT_AUTH, EXIT_JOB_FAILED, EXIT_TARGET, EXIT_TIMEOUT, EXIT_INTERRUPTED = 1, 2, 4, 5, 6, 7, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--url", metavar="URL", help="The server; without it OCTAVO_URL, then http://127.0.0.1:8080.")
@click.version_option(__version__)
@click.pass_context
def octavo(context: click.Context, url: str | None) -> None:
    r"""Quantize PyTorch models on an Octavo server.

    \b
    octavo doctor                                          is everything in place?
    octavo quantize net.pt2 --method dynamic --wait        int8 weights, needs no data
    octavo quantize net.pt2 --calibration images.npz --evaluation test.npz --wait
    octavo artifacts download job_019abc… -o out/

    The server is OCTAVO_URL, the key OCTAVO_API_KEY. Data goes to stdout and everything else to stderr; --json gives
    data as the HTTP API does.

    Exit codes: 0 ok, 1 error, 2 usage, 4 not authorised, 5 job failed, 6 accuracy target not met, 7 gave up waiting,
    130 interrupted.
    """
    if os.environ.get("NO_COLOR"):
        context.color = False
    context.obj = url


for command in (models, datasets, quantize, jobs, artifacts, report, meta, doctor):
    octavo.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code; errors are told on stderr."""
    try:
        result = octavo.main(list(arguments), prog_name="octavo", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our stdout has seen enough, as `head` does; the interpreter must not complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        message(f"{click.style('Error:', fg='red')} {error}")
        return code
    return result if isinstance(result, int) else 0


def _exit_code(error: Exception) -> int | None:
    """The exit code of an error that was foreseen."""
    import octavo as sdk  # noqa: PLC0415  # `octavo --help` does without pydantic

    if isinstance(error, sdk.AuthenticationError | sdk.PermissionDeniedError):
        return EXIT_AUTH
    if isinstance(error, sdk.JobFailed | sdk.JobCancelled):
        return EXIT_JOB_FAILED
    if isinstance(error, sdk.TargetNotMet):
        return EXIT_TARGET
    if isinstance(error, sdk.WaitTimeout):
        return EXIT_TIMEOUT
    return EXIT_ERROR if isinstance(error, sdk.OctavoError | OSError) else None


def main() -> None:
    """Entry point."""
    sys.exit(run(sys.argv[1:]))
