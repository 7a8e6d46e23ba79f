"""What is sent for each workload, and how an answer to it is checked.

Pure; the same texts give the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from beicli.bench.predictions import read_entities, read_labels, read_scores
from beicli.bench.response import Answer, QuickCheck, read_embeddings
from beicli.bench.settings import BenchSettings, EncodingFormat, Target, WorkloadKind

# Which key every item of a complete answer has, so that counting it counts the items. base64 goes
# by length, and entities have no fixed number.
_MARKS = {
    # Also the value of `"object": "embedding"` where that is sent.
    WorkloadKind.EMBEDDINGS: b'"embedding"',
    WorkloadKind.RERANK: b'"index"',
    WorkloadKind.PREDICT: b'"label"',
}
_NOTHING_TO_COUNT = b"\xff"


@dataclass(frozen=True, slots=True)
class Route:
    """One workload as it is asked of a server."""

    workload: WorkloadKind
    batch_size: int
    encoding_format: EncodingFormat
    dimensions: int | None

    @classmethod
    def of(cls, settings: BenchSettings) -> "Route":
        return cls(
            settings.workload, settings.batch_size, settings.encoding_format, settings.dimensions
        )

    def url(self, target: Target) -> str:
        return target.root + self.workload.path

    def body(self, texts: Sequence[str], *, query: str, model: str | None) -> bytes:
        """Serialise a request; query: what the texts are ranked for, where they are."""
        named = {} if model is None else {"model": model}
        return orjson.dumps(self._fields(texts, query) | named)

    def _fields(self, texts: Sequence[str], query: str) -> dict[str, object]:
        match self.workload:
            case WorkloadKind.EMBEDDINGS:
                sizes = {} if self.dimensions is None else {"dimensions": self.dimensions}
                return {"input": texts, "encoding_format": str(self.encoding_format), **sizes}
            case WorkloadKind.RERANK:
                return {"query": query, "texts": texts, "truncate": True}
            case WorkloadKind.PREDICT:
                return {"inputs": [[text] for text in texts], "truncate": True}
            case WorkloadKind.PREDICT_TOKENS:
                return {
                    "inputs": [[text] for text in texts],
                    "truncate": True,
                    "aggregation_strategy": "max",
                }

    def read(self, content: bytes, *, num_texts: int | None = None) -> Answer:
        """Check an answer in full; raises `InvalidResponseError` unless it is complete."""
        num_texts = self.batch_size if num_texts is None else num_texts
        match self.workload:
            case WorkloadKind.EMBEDDINGS:
                return read_embeddings(
                    content,
                    num_texts=num_texts,
                    encoding_format=self.encoding_format,
                    dimensions=self.dimensions,
                )
            case WorkloadKind.RERANK:
                read_scores(content, num_texts=num_texts)
            case WorkloadKind.PREDICT:
                read_labels(content, num_texts=num_texts)
            case WorkloadKind.PREDICT_TOKENS:
                read_entities(content, num_texts=num_texts)
        return Answer(num_tokens=None, model=None)

    def quick_check(self, verified_content: bytes) -> QuickCheck:
        """Return what recognises answers like this one."""
        is_base64 = self.encoding_format is EncodingFormat.BASE64
        if self.workload is WorkloadKind.EMBEDDINGS and is_base64:
            return QuickCheck(verified_content, mark=None)
        return QuickCheck(verified_content, mark=_MARKS.get(self.workload, _NOTHING_TO_COUNT))
