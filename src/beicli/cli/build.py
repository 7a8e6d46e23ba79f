"""`bei build`: from a configuration to an engine directory."""

import signal
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from beicli.cli.console import StepProgress, needs_extra, print_data, print_json, print_warning


def build(
    config: Annotated[
        Path, typer.Argument(help="A config.yaml, or a Truss directory that holds one.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", envvar="BEI_OUTPUT", help="Where the engine goes.")
    ] = Path("engine"),
    force: Annotated[
        bool, typer.Option("--force", envvar="BEI_FORCE", help="Replace an existing engine.")
    ] = False,
    backend: Annotated[
        Literal["openvino", "tensorrt", "tensorrt-rtx", "tensorrt-llm", "torch"] | None,
        typer.Option(
            envvar="BEI_BACKEND",
            help="What is to compute: openvino on CPUs, tensorrt or tensorrt-rtx on the GPU that "
            "is named, tensorrt-llm for causal models in an environment of its own, or torch for "
            "what cannot be exported. Left out, the GPU that is named decides; without one it is "
            "openvino.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            envvar="BEI_TARGET",
            help="GPU to build for, as sm90; left out, the one in `resources.accelerator`. It need "
            "not be here.",
        ),
    ] = None,
    hw_compat: Annotated[
        Literal["none", "same_compute_capability"],
        typer.Option(
            envvar="BEI_HW_COMPAT",
            help="Whether one plan of tensorrt is to run on all GPUs of a compute capability, such "
            "as H100 and H200, somewhat slower.",
        ),
    ] = "none",
    layout: Annotated[
        Literal["padded", "hybrid"],
        typer.Option(
            envvar="BEI_LAYOUT",
            help="How a GPU computes texts of different lengths: all padded, or padded only "
            "inside attention.",
        ),
    ] = "padded",
    precision: Annotated[
        Literal["auto", "f32", "bf16", "f16"],
        typer.Option(
            envvar="BEI_PRECISION",
            help="What the engine computes in; auto is bf16 where the CPU has it and moves no "
            "score by more than 0.0015, f32 with torch, and on GPUs the 16 bit of the "
            "checkpoint.",
        ),
    ] = "auto",
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            envvar="BEI_TUNE",
            help="Measure, for half a minute or so, how the engine is fastest on this machine: "
            "slots, the size of a batch and, with --precision auto, whether f32 is as fast.",
        ),
    ] = False,
    pooling: Annotated[
        Literal["cls", "max", "mean", "mean_sqrt_len", "weighted_mean", "last_token", "splade"]
        | None,
        typer.Option(envvar="BEI_POOLING", help="Override the checkpoint's pooling."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            envvar="BEI_SET",
            metavar="KEY.PATH=VALUE",
            help="Override a configuration key.",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", envvar="BEI_STRICT", help="Refuse keys that nothing reads."),
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", envvar="BEI_OFFLINE", help="Use the local cache only.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", envvar="BEI_JSON", help="Print the result as JSON.")
    ] = False,
) -> None:
    """Build an engine, checked against its float32 reference."""
    from beicli.config.load import load_config

    loaded = load_config(config, overrides=overrides or (), strict=strict)
    with needs_extra():
        from beicli.builder.build import BuildOptions, build_engine
    from beicli.model.rerank_templates import template_name
    from beicli.model.spec import Pooling
    from beicli.pipeline.pipeline import compute_outputs
    from beicli.pipeline.tuning import tune as tune_engine
    from beicli.tensorrt.targets import parse_target

    # A terminated build cleans up as an interrupted one does.
    signal.signal(signal.SIGTERM, _raise_interrupt)
    options = BuildOptions(
        output=output,
        force=force,
        offline=offline,
        backend=backend,
        precision=None if precision == "auto" else precision,
        pooling=None if pooling is None else Pooling(pooling),
        tune=tune_engine if tune else None,
        sm=None if target is None else parse_target(target),
        hardware_compatibility=hw_compat,
        layout=layout,
    )
    for problem in loaded.warnings:
        print_warning(str(problem), problem.hint)
    with StepProgress() as progress:
        result = build_engine(loaded, options, compute=compute_outputs, progress=progress)
    if as_json:
        manifest = result.artifact.manifest
        model = manifest.model
        template = model.rerank_template
        print_json(
            {
                "path": str(output),
                "name": manifest.name,
                "task": model.task,
                "architecture": model.architecture,
                "pooling": model.pooling,
                "num_labels": len(model.labels),
                "rerank_template": None if template is None else template_name(template),
                "backend": manifest.backend,
                "precision": manifest.precision,
                "source": asdict(manifest.source),
                "limits": asdict(manifest.limits),
                "quantization": manifest.quantization and asdict(manifest.quantization),
                "tuning": manifest.tuning and asdict(manifest.tuning),
                "gpu": manifest.gpu and asdict(manifest.gpu),
                "report": asdict(result.report),
            }
        )
    else:
        print_data(str(output))


def _raise_interrupt(signum: int, _frame: object) -> None:
    raise SystemExit(128 + signum)
