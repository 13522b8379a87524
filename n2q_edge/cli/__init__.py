"""The command line: which commands there are, and how each of them ends.

The modules a command needs are imported inside it: `n2q-edge --help` answers at once.
"""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, Any

import typer

from n2q_edge import __version__
from n2q_edge.cli import (
    assess,
    bench,
    build,
    doctor,
    echo,
    evaluate,
    export,
    inspect,
    listen,
    phantom,
    reference,
    send,
    simulate,
    targets,
    train,
    trend,
)
from n2q_edge.cli.console import note
from n2q_edge.errors import ExitCode, N2QError

app = typer.Typer(
    name="n2q-edge",
    help="No-reference CT image quality at the scanner: quality map, dose level and latency for every slice.",
    epilog="Exit codes: 0 ok, 1 a bug, 2 usage, 3 some inputs rejected, 4 nothing assessed, 5 model problem, "
    "6 missing package, 7 output not written, 10 quality below --fail-below or the policy, 130 interrupted.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# Typer's UsageError, base of BadParameter: older versions take it from click, newer ones bring their own.
PARSER_ERROR: Any = typer.BadParameter.__mro__[1]


def entry() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a file name may hold anything
    sys.exit(main())


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process if None.

    Returns:
        The exit code.
    """
    arguments = sys.argv[1:] if argv is None else argv
    debug = "--debug" in arguments
    try:
        code = app(
            args=[argument for argument in arguments if argument != "--debug"],
            prog_name="n2q-edge",
            standalone_mode=False,
        )
        return int(code or ExitCode.OK)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", ExitCode.INTERRUPTED, debug)
    except N2QError as error:
        return _fail(str(error), error.exit_code, debug)
    except Exception as error:
        if isinstance(error, PARSER_ERROR):
            return _fail(
                f"{str(error.format_message()).rstrip('.')}; see 'n2q-edge --help'", ExitCode.USAGE, debug
            )
        message = f"unexpected {type(error).__name__}: {error} (a bug; --debug shows where)"
        return _fail(message, ExitCode.BUG, debug)


def _fail(message: str, code: ExitCode, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    note(" ".join(message.split()))
    return int(code)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"n2q-edge {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks. Anywhere in the line.")] = False,
) -> None:
    pass


for command in (
    assess.assess,
    trend.trend,
    reference.reference,
    export.export,
    build.build,
    targets.targets,
    inspect.inspect,
    train.train,
    evaluate.evaluate,
    simulate.simulate,
    phantom.phantom,
    doctor.doctor,
    bench.bench,
    listen.listen,
    send.send,
    echo.echo,
):
    app.command()(command)
