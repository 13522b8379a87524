"""The command line: which commands there are, and how each of them ends.

The modules a command needs are imported inside it: `n2q-edge --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from n2q_edge import __version__
from n2q_edge.cli import (
    archive,
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
    signals,
    simulate,
    targets,
    train,
    trend,
)
from n2q_edge.cli.console import fail, results, show_tracebacks
from n2q_edge.errors import ExitCode, N2QError

NAME = "n2q-edge"
EPILOG = """\b
Examples:
  n2q-edge assess series/                      a table on the terminal
  n2q-edge assess series/ -o report/           report, JSON, CSV and pictures
  n2q-edge assess series/ --json | jq .        one JSON document
  n2q-edge assess series/ --fail-below 0.8     exit code 10 if the quality is lower
  n2q-edge trend --db site.db                  quality over time
  n2q-edge doctor                              what this machine can run

\b
Every option can be set in the environment, as N2Q_EDGE_COMMAND_OPTION:
  N2Q_EDGE_ASSESS_MODEL=n2q-plus n2q-edge assess series/

\b
Exit codes:
  0 ok                   5 model problem
  1 a bug                6 missing package
  2 usage                7 output not written
  3 some inputs rejected 10 quality below --fail-below or the policy
  4 nothing assessed     130 interrupted"""

app = typer.Typer(
    name=NAME,
    help="No-reference CT image quality at the scanner: quality map, dose level and latency for every slice.",
    epilog=EPILOG,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# Typer's UsageError, base of BadParameter: older versions take it from click, newer ones bring their own.
PARSER_ERROR: Any = typer.BadParameter.__mro__[1]


def entry() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed by the caller
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # file names hold anything
    code = main()
    if code == ExitCode.INTERRUPTED:
        os._exit(code)  # a model that does not end would be waited for; everything is flushed
    sys.exit(code)


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process if None.

    Returns:
        The exit code.
    """
    arguments = sys.argv[1:] if argv is None else argv
    show_tracebacks("--debug" in arguments)
    wanted = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    try:
        with signals.handled(), results():
            return int(_command()(args=wanted, prog_name=NAME, standalone_mode=False) or ExitCode.OK)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", ExitCode.INTERRUPTED)
    except SystemExit as ending:
        if isinstance(ending.__context__, BrokenPipeError):  # the parser's end when nobody reads its help
            return int(ExitCode.OK)
        raise
    except N2QError as error:
        return _fail(str(error), error.exit_code)
    except Exception as error:
        if isinstance(error, PARSER_ERROR):
            return _fail(f"{str(error.format_message()).rstrip('.')}; see 'n2q-edge --help'", ExitCode.USAGE)
        message = f"unexpected {type(error).__name__}: {error} (a bug; --debug shows where)"
        return _fail(message, ExitCode.BUG)


def _command() -> Any:
    """The parser, with an environment variable for every option: `--fail-below` of `assess` is
    `N2Q_EDGE_ASSESS_FAIL_BELOW`."""
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        for parameter in command.params:
            long = [option[2:] for option in parameter.opts if option.startswith("--")]
            if long:
                parameter.envvar = f"{NAME}_{name}_{long[0]}".upper().replace("-", "_")
                parameter.show_envvar = False  # one sentence in the help says it of all
    return group


def _fail(message: str, code: ExitCode) -> int:
    fail(message)
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
    archive.merge,
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
