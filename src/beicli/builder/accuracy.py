"""The accuracy gate: the compiled engine must say what the float32 reference says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from beicli.artifact.manifest import Precision
from beicli.builder.graph import EmbeddingModule
from beicli.errors import AccuracyError, BuildError
from beicli.model.spec import ModelSpec

Float32 = NDArray[np.float32]

# The lowest cosine any text may have. bf16 keeps 8 bits of mantissa: real texts reach 0.9999.
MIN_COSINE: dict[Precision, float] = {"f32": 0.9999, "bf16": 0.999}
NUM_NEIGHBOURS = 10
NUM_WORST_TEXTS = 5
_EXCERPT_CHARACTERS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class TextAgreement:
    """How one text fared."""

    text: str
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyReport:
    """What `report.json` says: the engine against the float32 reference, over the bundled texts.

    neighbour_overlap: mean share of each text's 10 nearest texts that both agree on.
    max_abs_difference: over all components of the unit vectors.
    """

    reference: str
    precision: Precision
    num_texts: int
    cosine_min: float
    cosine_min_allowed: float
    cosine_first_percentile: float
    cosine_mean: float
    neighbour_overlap: float
    max_abs_difference: float
    worst_texts: tuple[TextAgreement, ...]

    @property
    def passed(self) -> bool:
        return self.cosine_min >= self.cosine_min_allowed


def reference_embeddings(
    module: EmbeddingModule,
    checkpoint: Path,
    spec: ModelSpec,
    texts: Sequence[str],
    *,
    max_input_length: int,
) -> Float32:
    """Embed each text alone with torch and transformers' own tokenizer, in float32.

    Returns [num_texts, embedding_dimension], unit length. Each text runs without padding, so the
    reference cannot share a padding mistake with the engine.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        # transformers lets through whatever its parsing of a bad file ran into.
        raise BuildError(
            f"transformers cannot load the tokenizer of the checkpoint: "
            f"{type(error).__name__}: {error}",
            hint="fetch the checkpoint again, or write its tokenizer anew with `save_pretrained`",
        ) from error
    prompt = "" if spec.default_prompt_name is None else spec.prompts[spec.default_prompt_name]
    rows = []
    with torch.no_grad():
        for text in texts:
            prepared = (prompt + text).lower() if spec.do_lower_case else prompt + text
            encoded = tokenizer(
                prepared, truncation=True, max_length=max_input_length, return_tensors="pt"
            )
            pooled = module(encoded["input_ids"], encoded["attention_mask"])
            rows.append(torch.nn.functional.normalize(pooled, dim=-1))
    stacked: Float32 = torch.cat(rows).numpy()
    if not np.isfinite(stacked).all():
        raise BuildError(
            "the float32 reference itself gives numbers that are not finite",
            hint="the checkpoint's weights are damaged or overflow; try another revision",
        )
    return stacked


def compare(
    reference: Float32, candidate: Float32, texts: Sequence[str], *, precision: Precision
) -> AccuracyReport:
    """Compare two sets of unit vectors, both [num_texts, dimension]."""
    cosines = np.einsum("td,td->t", reference.astype(np.float64), candidate.astype(np.float64))
    # What is no number agrees with nothing, and must not sort behind the numbers.
    cosines = np.nan_to_num(cosines, nan=-1.0)
    worst = np.argsort(cosines, kind="stable")[:NUM_WORST_TEXTS]
    return AccuracyReport(
        reference="transformers, torch float32, one text at a time",
        precision=precision,
        num_texts=len(texts),
        cosine_min=float(cosines.min()),
        cosine_min_allowed=MIN_COSINE[precision],
        cosine_first_percentile=float(np.percentile(cosines, 1)),
        cosine_mean=float(cosines.mean()),
        neighbour_overlap=neighbour_overlap(reference, candidate),
        max_abs_difference=float(np.abs(reference - candidate).max()),
        worst_texts=tuple(
            TextAgreement(text=texts[i][:_EXCERPT_CHARACTERS], cosine=float(cosines[i]))
            for i in worst
        ),
    )


def neighbour_overlap(reference: Float32, candidate: Float32) -> float:
    """Mean share of each row's nearest other rows, by cosine, that both sets agree on."""
    num_neighbours = min(NUM_NEIGHBOURS, len(reference) - 1)
    if num_neighbours < 1:
        return 1.0
    nearest = []
    for vectors in (reference, candidate):
        similarity = vectors @ vectors.T
        np.fill_diagonal(similarity, -np.inf)
        nearest.append(np.argpartition(-similarity, num_neighbours - 1, axis=1)[:, :num_neighbours])
    shared = [
        len(set(a.tolist()) & set(b.tolist())) for a, b in zip(nearest[0], nearest[1], strict=True)
    ]
    return sum(shared) / (num_neighbours * len(shared))


def require_accuracy(report: AccuracyReport) -> None:
    """Raise AccuracyError, with the worst text, if the report does not pass."""
    if report.passed:
        return
    worst = report.worst_texts[0]
    raise AccuracyError(
        f"the {report.precision} engine disagrees with the float32 reference: cosine "
        f"{worst.cosine:.6f} for {worst.text!r}, at least {report.cosine_min_allowed} is wanted",
        hint="build with `--precision f32`"
        if report.precision != "f32"
        else "the export is wrong for this architecture; report it with the checkpoint's name",
    )
