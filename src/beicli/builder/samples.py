"""What an engine is compared on: the bundled texts, and pairs of them where a model takes pairs."""

from beicli.artifact.golden import Sample
from beicli.builder.texts import GOLDEN_TEXTS, OVERLONG_PAIRS, REFERENCE_TEXTS, SHORT_PAIRS
from beicli.model.spec import ModelSpec, Task

NUM_GOLDEN = 8


def reference_samples(spec: ModelSpec) -> tuple[Sample, ...]:
    """Return the samples for a model of this task.

    A templated reranker gets pairs that leave room for its prompt: how the rest is cut is not a
    matter of numbers.
    """
    if spec.rerank_template is not None:
        return SHORT_PAIRS
    if spec.task in {Task.CLASSIFICATION, Task.RERANKING}:
        return (*REFERENCE_TEXTS, *SHORT_PAIRS, *OVERLONG_PAIRS)
    return REFERENCE_TEXTS


def golden_samples(spec: ModelSpec) -> tuple[Sample, ...]:
    """Return the few of them that are kept in the engine: one of each kind."""
    if spec.rerank_template is not None:
        return SHORT_PAIRS[:: len(SHORT_PAIRS) // NUM_GOLDEN][:NUM_GOLDEN]
    if spec.task in {Task.CLASSIFICATION, Task.RERANKING}:
        half = NUM_GOLDEN // 2
        pairs = (*SHORT_PAIRS[:: len(SHORT_PAIRS) // half][: half - 1], OVERLONG_PAIRS[0])
        return (*GOLDEN_TEXTS[::2], *pairs)
    return GOLDEN_TEXTS
