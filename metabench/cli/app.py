"""The command line as a whole: its commands, its exit codes, and one message for a user's mistake."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from metabench import __version__
from metabench.cli import (
    doctor,
    kernel_commands,
    own_commands,
    search_commands,
    suite_commands,
    table_commands,
    watching,
)
from metabench.cli.application import app
from metabench.cli.output import print_error
from metabench.core.errors import MetabenchError

__all__ = ["app", "doctor", "kernel_commands", "main", "own_commands", "search_commands", "suite_commands", "table_commands", "watching"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 on success, 2 with one message for a user error (`--debug`: with its traceback)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Wherever it stands: people add it at the end of the line that failed.
    debug = "--debug" in given
    signal.signal(signal.SIGINT, _interrupted)
    try:
        app(args=[argument for argument in given if argument != "--debug"], prog_name="metabench")
    except BrokenPipeError:
        # The reader of a pipe has gone, as `head` does. Python would complain again when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except (MetabenchError, OSError) as error:
        if debug:
            traceback.print_exc()
        else:
            print_error(_message(error))
        raise SystemExit(2) from None
    raise SystemExit(0)


def _message(error: MetabenchError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _interrupted(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit()


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; may appear anywhere.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del debug, version  # main() and the callback have read them
