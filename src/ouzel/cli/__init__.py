"""The command line: `ouzel COMMAND`, one file per command, loaded only when it is asked for.

A command is a file with a function `command`, its options typed for typer, and `EXAMPLE`, a line
that its `--help` shows; or one with `TOPICS`, each of which is such a file in a room of its own.
Exit codes: 0 success, 1 bad data or a failed check, 2 bad usage.
"""

from __future__ import annotations

import errno
import functools
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Annotated, ParamSpec, TypeVar

import typer

from ouzel.recommender.extras import remedy
from ouzel.version import __version__

P = ParamSpec("P")
R = TypeVar("R")

COMMANDS = {
    "validate": "Check a data file and report what is wrong with it, row by row.",
    "train": "Train a model on raw events and make a home for it.",
    "models": "List the models that can be trained, and when to use which.",
    "evaluate": "Measure the model of a home against every baseline.",
    "recommend": "Print what a home recommends to one user.",
    "index": "Choose how the items of a home are searched, by measuring it here.",
    "serve": "Serve a home over HTTP, with the live page.",
    "benchmark": "Measure serving, user states, accuracy or training here.",
    "doctor": "Check this machine and a home, and say what to repair.",
}
"""Every command and its line in `ouzel --help`."""

_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.EACCES: "check who owns it, or choose another place",
    errno.ENOSPC: "free some space on this disk",
    errno.EMFILE: "raise the limit with `ulimit -n 4096`",
    errno.EADDRINUSE: "choose another with --port, or --port 0 for any free one",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code.

    Raises:
        SystemExit: always; the code is 0, 1 or 2 as the module says.

    >>> main(["--version"])
    Traceback (most recent call last):
    ...
    SystemExit: 0
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    application(given)(args=given, prog_name="ouzel")


def application(arguments: Sequence[str]) -> typer.Typer:
    """Return the typer application in which the command named by `arguments` is loaded.

    The other commands are there by name only, so that `ouzel --help` need not import them.

    >>> len(application(["--help"]).registered_commands) == len(COMMANDS)
    True
    """
    words = [word for word in arguments if not word.startswith("-")]
    app = _typer()
    app.callback()(_root)
    _add(app, COMMANDS, "ouzel.cli", words)
    return app


def _typer() -> typer.Typer:
    return typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _add(app: typer.Typer, commands: Mapping[str, str], room: str, words: Sequence[str]) -> None:
    """Add `commands`, of which only the one that the first of `words` names is loaded."""
    for name, summary in commands.items():
        if not words or name != words[0]:
            app.command(name, help=summary)(_unloaded)
            continue
        module = _guarded(import_module)(f"{room}.{name}")
        if hasattr(module, "TOPICS"):
            topics = _typer()
            topics.callback()(_unloaded)
            _add(topics, module.TOPICS, module.ROOM, words[1:])
            app.add_typer(topics, name=name, help=summary)
        else:
            app.command(name, epilog=f"Example: {module.EXAMPLE}")(_guarded(module.command))


def _unloaded() -> None:
    """Stand for a command that was not asked for."""


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"ouzel {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    """Real-time recommendations from large models, on an ordinary CPU machine."""


def _guarded(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function with expected failures told in one line; a bug keeps its traceback."""

    @functools.wraps(function)
    def guarded(*arguments: P.args, **named: P.kwargs) -> R:
        code = 1
        try:
            return function(*arguments, **named)
        except BrokenPipeError:
            raise
        except KeyboardInterrupt:
            message, code = "interrupted", 128 + signal.SIGINT
        except ModuleNotFoundError as error:
            if (known := remedy(error.name)) is None:
                raise
            message = known
        except OSError as error:
            message = _explain(error)
        except ValueError as error:
            message = str(error)
        typer.echo(f"error: {' '.join(message.split())}", err=True)
        raise SystemExit(code)

    return guarded


def _explain(error: OSError) -> str:
    what = error.strerror or str(error)
    where = f"{error.filename}: " if error.filename is not None else ""
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{where}{what}" + (f": {remedy}" if remedy else "")
