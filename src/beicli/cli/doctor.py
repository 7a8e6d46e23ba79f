"""`bei doctor`: what each backend could do on this machine, and what it lacks."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from beicli.cli.console import print_json, printable, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from beicli.validation.doctor import BackendDiagnosis, Diagnosis

# Raised whenever a key of the JSON changes its meaning or goes away.
JSON_SCHEMA_VERSION = 1


def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", envvar="BEI_JSON", help="Print what was found as JSON.")
    ] = False,
) -> None:
    """Say what each backend can do on this machine, and what it lacks.

    Nothing is loaded or compiled. Exits 0 if something can serve, 1 if nothing can.
    """
    from beicli.validation.doctor import diagnose

    found = diagnose()
    if as_json:
        print_json(_as_json(found))
    else:
        _show(found)
    able = [backend.name for backend in found.backends if backend.can_serve]
    say(f"can serve here: {', '.join(able) or 'nothing'}")
    raise typer.Exit(int(not found.can_serve))


def _as_json(found: "Diagnosis") -> dict[str, Any]:
    from dataclasses import asdict

    backends = [
        asdict(backend)
        | {
            "state": backend.state,
            "can_build": backend.can_build,
            "can_serve": backend.can_serve,
        }
        for backend in found.backends
    ]
    return {"schema_version": JSON_SCHEMA_VERSION} | asdict(found) | {"backends": backends}


def _show(found: "Diagnosis") -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for line in _machine_lines(found):
        console.print(Text(printable(line)))
    console.print()
    console.print(_packages_table(found))
    console.print()
    console.print(_backends_table(found))
    for fix in _fixes(found.backends):
        # Unwrapped, so that it can be copied.
        console.print(Text(printable(fix)), soft_wrap=True)


def _machine_lines(found: "Diagnosis") -> "Iterator[str]":
    machine = found.machine
    yield f"cpu: {machine.cpu}"
    yield f"cpu features: {' '.join(machine.cpu_features) or '-'}"
    yield f"cpus: {machine.num_cpus:,}, memory: {machine.memory_bytes / 1e9:,.1f} GB"
    if found.driver is None:
        yield f"gpus: none, {found.driver_problem}"
    else:
        major, minor = found.driver.version
        yield f"nvidia driver: CUDA up to {major}.{minor}"
        for device in found.driver.devices:
            size_gb = device.memory_bytes / 1e9
            yield f"gpu {device.index}: {device.name}, sm{device.sm}, {size_gb:,.1f} GB"


def _packages_table(found: "Diagnosis") -> "Table":
    table = _table("package", "installed", "wanted")
    for package in found.packages:
        is_wrong = package.version is not None and not package.is_suitable
        installed = f"{package.version or '-'}{' (unsuitable)' if is_wrong else ''}"
        table.add_row(package.name, printable(installed), package.wanted)
    table.add_row("tensorrt-llm", printable(found.tensorrt_llm or "-"), "its own environment")
    return table


def _backends_table(found: "Diagnosis") -> "Table":
    table = _table("backend", "state", "lacks")
    for backend in found.backends:
        lacks = "\n".join(dict.fromkeys(lack.what for lack in backend.lacks))
        table.add_row(backend.name, backend.state, printable(lacks) or "-")
    return table


def _table(*columns: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _fixes(backends: "tuple[BackendDiagnosis, ...]") -> "Iterator[str]":
    """Yield what to do for each backend that lacks something, every step once."""
    for backend in backends:
        fixes = dict.fromkeys(lack.fix for lack in backend.lacks if lack.fix is not None)
        if fixes:
            yield f"\n# {backend.name}"
            yield from fixes
