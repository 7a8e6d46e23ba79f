"""The `bei` command: its subcommands, and the one place where failures become exit codes."""

import errno
import sys
from typing import Annotated

import typer

from beicli import __version__
from beicli.cli.bench import bench
from beicli.cli.build import build
from beicli.cli.console import print_data, print_error
from beicli.cli.doctor import doctor
from beicli.cli.inspect import diff, inspect
from beicli.cli.serve import serve
from beicli.cli.validate import validate
from beicli.errors import BeiError

# These can meet any write, and none of them is a bug of whoever writes.
_DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}

app = typer.Typer(
    name="bei",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(build)
app.command()(serve)
app.command()(bench)
app.command()(validate)
app.command()(inspect)
app.command()(diff)
app.command()(doctor)


def _print_version(asked: bool) -> None:
    if asked:
        print_data(f"bei {__version__}")
        raise typer.Exit


@app.callback()
def bei(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Compile embedding models into versioned engines and serve them."""


def main() -> None:
    """Run the command line; an expected failure ends with its message and exit code."""
    try:
        app(prog_name="bei")
    except BeiError as error:
        print_error(error)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in _DISK_TROUBLE:
            raise
        # A write, unlike an open, does not say to which file.
        place = f" `{error.filename}`" if error.filename else ""
        print_error(BeiError(f"cannot write{place}: {error.strerror}"))
        sys.exit(1)
