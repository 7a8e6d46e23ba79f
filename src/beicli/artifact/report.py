"""`report.json`: how an engine compared with its float32 reference when it was built."""

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import pydantic

from beicli.artifact.manifest import Precision
from beicli.artifact.names import REPORT_NAME
from beicli.errors import ArtifactError

# The furthest a score may be off in a precision nobody asked for. Other texts were seen to be three
# times as far off as those of the gate, so they stay within 0.005.
MAX_SCORE_DIFFERENCE_UNASKED = 1.5e-3
_REFERENCE = "transformers, torch float32, one sample at a time"
COMPUTED_BY_ENGINE = "the engine itself"
# Where there is no GPU to run it.
COMPUTED_BY_EMULATION = "the engine's graph and number formats, emulated on a CPU"


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineAgreement:
    """How the vector of one sample fared."""

    text: str
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreAgreement:
    """How far off the scores of one sample are, at most."""

    text: str
    difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorLimits:
    """The least that vectors in 8 bit must reach over many texts; see `VectorReport`."""

    cosine_mean: float
    cosine_first_percentile: float
    neighbour_overlap: float
    similarity_correlation: float


def _how_computed(computed_by: str) -> str:
    return "" if computed_by == COMPUTED_BY_ENGINE else f", by {computed_by}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorReport:
    """What `report.json` says of vectors: the engine against the float32 reference.

    computed_by: what gave the engine's side of it.
    neighbour_overlap: mean share of each text's 10 nearest texts that both agree on.
    similarity_correlation: Spearman's, of the similarities of all pairs of texts.
    limits: what the figures over all texts must reach, where the precision asks for that.
    index_overlap: for sparse vectors, mean share of the indices above 0 in either that are so in
        both; else None. max_abs_difference: over all components.
    """

    measure: Literal["cosine"] = "cosine"
    reference: str = _REFERENCE
    computed_by: str = COMPUTED_BY_ENGINE
    precision: Precision
    num_samples: int
    cosine_min: float
    cosine_min_allowed: float
    cosine_first_percentile: float
    cosine_mean: float
    neighbour_overlap: float
    similarity_correlation: float
    limits: VectorLimits | None
    index_overlap: float | None
    max_abs_difference: float
    worst_samples: Annotated[tuple[CosineAgreement, ...], pydantic.Field(min_length=1)]

    @property
    def passed(self) -> bool:
        return self.cosine_min >= self.cosine_min_allowed and not self._below_limits()

    @property
    def is_close(self) -> bool:
        """Whether a build may choose this precision by itself."""
        return self.passed

    @property
    def summary(self) -> str:
        overlap = ""
        if self.limits is not None:
            overlap = f"{self.neighbour_overlap:.1%} of the neighbours in common, "
        if self.index_overlap is not None:
            overlap += f"{self.index_overlap:.2%} of the indices in common, "
        return (
            f"cosine min {self.cosine_min:.6f}, mean {self.cosine_mean:.6f}, {overlap}"
            f"over {self.num_samples} texts{_how_computed(self.computed_by)}"
        )

    @property
    def failure(self) -> str:
        if missed := self._below_limits():
            return ", ".join(missed)
        worst = self.worst_samples[0]
        return (
            f"cosine {worst.cosine:.6f} for {worst.text!r}, at least {self.cosine_min_allowed} is "
            "wanted"
        )

    def _below_limits(self) -> list[str]:
        """Say which of the figures over all texts are below their limits."""
        if self.limits is None:
            return []
        wanted = asdict(self.limits)
        return [
            f"{name.replace('_', ' ')} {getattr(self, name):.4f}, at least {least} is wanted"
            for name, least in wanted.items()
            if getattr(self, name) < least
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreReport:
    """What `report.json` says of scores, after softmax or sigmoid.

    max_difference: the furthest any score of any sample, or of any of its tokens, is off.
    num_decisions: rows whose two best labels are further apart in the reference than a score may
        be off, or for one label, neighbours in the reference's order that are so far apart.
    agreement: share of them that the engine decides alike; 1 if there are none.
    """

    measure: Literal["scores"] = "scores"
    reference: str = _REFERENCE
    computed_by: str = COMPUTED_BY_ENGINE
    precision: Precision
    num_samples: int
    max_difference: float
    max_difference_allowed: float
    mean_difference: float
    num_decisions: int
    agreement: float
    agreement_allowed: float
    worst_samples: Annotated[tuple[ScoreAgreement, ...], pydantic.Field(min_length=1)]

    @property
    def passed(self) -> bool:
        is_near = self.max_difference <= self.max_difference_allowed
        return is_near and self.agreement >= self.agreement_allowed

    @property
    def is_close(self) -> bool:
        """Whether a build may choose this precision by itself."""
        return self.passed and self.max_difference <= MAX_SCORE_DIFFERENCE_UNASKED

    @property
    def summary(self) -> str:
        return (
            f"scores at most {self.max_difference:.1e} off, {self.agreement:.2%} of "
            f"{self.num_decisions:,} clear decisions the same, over {self.num_samples} samples"
            f"{_how_computed(self.computed_by)}"
        )

    @property
    def failure(self) -> str:
        worst = self.worst_samples[0]
        if self.max_difference <= self.max_difference_allowed:
            return (
                f"{self.agreement:.2%} of {self.num_decisions:,} clear decisions are the same, at "
                f"least {self.agreement_allowed:.2%} are wanted"
            )
        return (
            f"a score is {worst.difference:.6f} off for {worst.text!r}, at most "
            f"{self.max_difference_allowed} is allowed"
        )


AccuracyReport = VectorReport | ScoreReport

_ADAPTER: pydantic.TypeAdapter[AccuracyReport] = pydantic.TypeAdapter(
    Annotated[AccuracyReport, pydantic.Field(discriminator="measure")]
)


def dump_report(report: AccuracyReport) -> str:
    """Return the JSON text of `report`, indented, keys in field order."""
    return json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n"


def parse_report(text: str) -> AccuracyReport:
    """Read the JSON text of a report; raises ArtifactError saying which field is wrong."""
    try:
        return _ADAPTER.validate_json(text, strict=True, extra="forbid")
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(
            f"`{REPORT_NAME}`: {f'`{place}`: ' if place else ''}{first['msg']}",
            hint="rebuild the engine with `bei build`",
        ) from error
