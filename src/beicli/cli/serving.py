"""What `bei serve` does with its options: names, processes, warnings, and the server itself."""

import logging
from typing import TYPE_CHECKING

from beicli.cli.console import print_warning, say
from beicli.cli.serve_options import warn_if_open

if TYPE_CHECKING:
    from collections.abc import Sequence

    from beicli.artifact.directory import EngineArtifact
    from beicli.artifact.manifest import Manifest
    from beicli.server.options import ServerOptions


def run_engines(
    artifacts: "Sequence[EngineArtifact]", options: "ServerOptions", *, num_replicas: int
) -> None:
    """Serve, and say where once requests are answered."""
    from beicli.server.access_log import configure_logging
    from beicli.server.front import model_names
    from beicli.server.run import run_server

    manifests = [artifact.manifest for artifact in artifacts]
    names = model_names(options, manifests)
    for manifest in manifests:
        warn_of_another_machine(manifest)
    warn_if_open(options.host, options.api_keys)
    configure_logging(options.log_format)

    def announce(url: str) -> None:
        together = f", {num_replicas} replicas" if num_replicas > 1 else ""
        served = [
            f"{name} ({_describe(manifest)}{together})"
            for name, manifest in zip(names, manifests, strict=True)
        ]
        # Whatever reads JSON is to find nothing else once requests are served.
        is_text = options.log_format == "text"
        tell = say if is_text else logging.getLogger("beicli.serve").info
        tell(f"Serving {', '.join(served)} at {url}")

    if num_replicas == 1:
        run_server(artifacts, options, on_ready=announce)
    else:
        from beicli.server.replicas.supervisor import run_replicas

        run_replicas(artifacts, options, num_replicas=num_replicas, on_ready=announce)


def _describe(manifest: "Manifest") -> str:
    longest = f"{manifest.limits.max_input_length:,}"
    return f"{manifest.model.task}, {manifest.precision}, inputs up to {longest} tokens"


def read_names(
    names: list[str] | None, served_model_name: str | None, *, num_engines: int
) -> tuple[str, ...]:
    """Return what the engines are called; none if each has its own name."""
    from beicli.errors import UsageError

    if names and served_model_name is not None:
        raise UsageError("`--name` and `--served-model-name` say the same", hint="leave one out")
    given = names or ([] if served_model_name is None else [served_model_name])
    if given and len(given) != num_engines:
        raise UsageError(
            f"{len(given)} name{'' if len(given) == 1 else 's'} for {num_engines} "
            f"engine{'' if num_engines == 1 else 's'}",
            hint="give `--name` once for each engine, in their order, or not at all",
        )
    return tuple(given)


def count_gpus(artifacts: "Sequence[EngineArtifact]") -> int:
    """Return how many GPUs there are for engines that want one; 0 where none does."""
    if all(artifact.manifest.gpu is None for artifact in artifacts):
        return 0
    from beicli.tensorrt.driver import read_driver

    return len(read_driver().devices)


def read_number_of_replicas(asked: str) -> int:
    """Read `--replicas`; warns where replicas would share CPUs."""
    from beicli.errors import UsageError
    from beicli.machine import available_cpus
    from beicli.server.replicas.plan import auto_replicas

    num_cpus = available_cpus()
    if asked == "auto":
        return auto_replicas(num_cpus)
    if not asked.isdecimal() or int(asked) < 1:
        raise UsageError(
            f"`--replicas {asked}` is neither a number of processes nor `auto`",
            hint="a number is 1 or more; `auto` takes what suits the CPUs",
        )
    if int(asked) > num_cpus:
        print_warning(
            f"{asked} replicas share {num_cpus} CPU{'' if num_cpus == 1 else 's'}, and slow each "
            "other down",
            "`--replicas auto` takes what suits the CPUs",
        )
    return int(asked)


def warn_of_another_machine(manifest: "Manifest") -> None:
    """Say in what this machine is not the one that an engine was tuned on."""
    from beicli.machine import this_machine

    if manifest.tuning is None:
        return
    differences = this_machine().differences(manifest.tuning.machine)
    if differences:
        print_warning(
            f"this engine was tuned on another machine: {'; '.join(differences)}",
            "slots and batches are the usual ones instead; tune it here with `bei build --tune`",
        )
