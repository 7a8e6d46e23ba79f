"""What `bei bench` found, as tables for people."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from beicli.bench.history import Comparison


def print_run(run: dict[str, Any]) -> None:
    """Print a run on stdout: a list for one point, a row a point for more."""
    from rich.console import Console

    from beicli.bench.table import headings, notes, point_rows, sweep_columns, sweep_rows

    console = Console(highlight=False)
    is_list = len(run["points"]) == 1 and run["against"] is None
    _print_rows(console, [*headings(run), *(point_rows(run) if is_list else ())])
    if not is_list:
        console.print()
        _print_rows(console, sweep_rows(run), columns=sweep_columns(run))
    for note in notes(run):
        console.print(note, markup=False, soft_wrap=True)


def print_comparison(comparison: "Comparison", *, to_stderr: bool) -> None:
    """Print what changed since the run before; to_stderr: where stdout is for a program."""
    from rich.console import Console

    console = Console(highlight=False, stderr=to_stderr)
    console.print()
    rows = (
        (
            row.point,
            row.quantity,
            f"{row.before:,.4g}",
            f"{row.after:,.4g}",
            "new" if row.change_percent is None else f"{row.change_percent:+.1f} %",
            row.verdict,
        )
        for row in comparison.rows
    )
    _print_rows(console, rows, columns=("load", "figure", "before", "after", "change", ""))
    for warning in comparison.warnings:
        console.print(f"note: {warning}", markup=False, soft_wrap=True)


def _print_rows(
    console: "Console", rows: Iterable[Sequence[str]], *, columns: Sequence[str] | None = None
) -> None:
    """Print rows; without `columns` they are labels and values."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=columns is not None, pad_edge=False)
    for number, name in enumerate(columns or ("", "")):
        is_figure = columns is not None and number > 0
        table.add_column(
            name,
            overflow="fold",
            justify="right" if is_figure else "left",
            no_wrap=number == 0,
        )
    for row in rows:
        # `Text`, since a server's error message may look like markup.
        table.add_row(*map(Text, row))
    console.print(table)
