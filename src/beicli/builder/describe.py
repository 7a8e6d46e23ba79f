"""What a build says of its steps, one line each."""

from beicli.artifact.manifest import Manifest
from beicli.artifact.report import (
    MAX_SCORE_DIFFERENCE_UNASKED,
    AccuracyReport,
    VectorReport,
)
from beicli.config.redaction import public_repo
from beicli.config.schema import CheckpointRepository
from beicli.model.rerank_templates import template_name
from beicli.model.spec import ModelSpec, Task
from beicli.modeling.onnx_network import onnx_network
from beicli.modeling.tasks import TaskModule
from beicli.sources.fetched import Checkpoint


def describe_checkpoint(repository: CheckpointRepository, checkpoint: Checkpoint) -> str:
    """Return what was fetched, at which commit, and how large its weights are."""
    revision = f"@{checkpoint.resolved_revision[:7]}" if checkpoint.resolved_revision else ""
    return f"{public_repo(repository.repo)}{revision}, {checkpoint.size_bytes / 1e6:,.1f} MB"


def describe_module(module: TaskModule) -> str:
    """Return how large the network is, and where it is not from safetensors, where it is from."""
    num_parameters = sum(p.numel() for p in module.parameters())
    network = onnx_network(module)
    if network is None:
        return f"{num_parameters / 1e6:,.1f} M parameters"
    num_parameters += network.interface.num_parameters
    return (
        f"{num_parameters / 1e6:,.1f} M parameters of `{network.interface.name}`, as there are no "
        "safetensors"
    )


def describe_spec(spec: ModelSpec) -> str:
    """Return what the checkpoint is."""
    limit = f"inputs up to {spec.max_input_length:,} tokens"
    return f"{spec.architecture}, {_describe_task(spec)}, {limit}"


def describe_fallback(report: AccuracyReport) -> str:
    """Return why an engine nobody asked a precision of computes in f32 on a CPU with bf16."""
    if isinstance(report, VectorReport) or not report.passed:
        return f"{report.precision} is not precise enough, so this is in f32: {report.failure}"
    return (
        f"{report.precision} would move a score by {report.max_difference:.4f}, and more than "
        f"{MAX_SCORE_DIFFERENCE_UNASKED} has to be asked for, so this is in f32; "
        f"`--precision {report.precision}` is faster"
    )


def describe_tuning(manifest: Manifest) -> str:
    """Return what was found fastest, and how fast that is."""
    tuning = manifest.tuning
    assert tuning is not None, "it was tuned"
    slots = "1 slot" if tuning.num_slots == 1 else f"{tuning.num_slots} slots"
    threads = "1 thread" if tuning.num_threads == 1 else f"{tuning.num_threads} threads"
    return (
        f"{manifest.precision}, {slots} on {threads}, batches of "
        f"{tuning.preferred_num_tokens:,} tokens: {tuning.tokens_per_second:,.0f} tokens/s"
    )


def _describe_task(spec: ModelSpec) -> str:
    if spec.task in {Task.EMBEDDING, Task.SPARSE_EMBEDDING}:
        adapter = f", adapter {spec.adapter}" if spec.adapter else ""
        pooling = " + ".join(spec.pooling)
        return f"pooling {pooling}{adapter}, {spec.embedding_dimension:,} dimensions"
    task = spec.task.replace("_", " ")
    num_labels = len(spec.labels)
    facts = f"{task}, {num_labels:,} {'label' if num_labels == 1 else 'labels'}"
    if spec.task is not Task.TOKEN_CLASSIFICATION:
        facts += f", {spec.score_activation}"
    if spec.task is Task.CLASSIFICATION and spec.relevance_label is not None:
        facts += f", `{spec.labels[spec.relevance_label]}` is relevant"
    if spec.rerank_template is not None:
        facts += f", {template_name(spec.rerank_template)} template"
    return facts
