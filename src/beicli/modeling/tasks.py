"""The task modules: a transformers model and what the task makes of it.

Every module takes token ids and their mask, both [batch, length] int32 padded right, and gives
float32 outputs with names of their own: those of `artifact.manifest.TOKEN_OUTPUTS` have a row for
every token, the others one for each sequence. Unit length, softmax and sigmoid come later.
"""

from typing import ClassVar

import torch

from beicli.artifact.manifest import TensorInfo
from beicli.model.spec import ModelSpec, Pooling


class TaskModule(torch.nn.Module):
    """What is exported: forward gives a tuple of tensors, named by `output_names`."""

    output_names: ClassVar[tuple[str, ...]]


class EmbeddingModule(TaskModule):
    """Pooled vectors, and what they are pooled from.

    forward gives [batch, embedding_dimension] and [batch, length, hidden_size].
    """

    output_names = ("embeddings", "token_embeddings")

    def __init__(
        self, encoder: torch.nn.Module, pooling: tuple[Pooling, ...], dense: torch.nn.Sequential
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        self.dense = dense

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        pooled = [pool(hidden, attention_mask, kind) for kind in self.pooling]
        return self.dense(torch.cat(pooled, dim=-1)).to(torch.float32), hidden.to(torch.float32)


class SparseEmbeddingModule(TaskModule):
    """Weights over the vocabulary; forward gives [batch, vocab_size], nothing below 0.

    Source: sentence-transformers `SpladePooling` with `max` and `relu`.
    """

    output_names = ("sparse_embeddings",)

    def __init__(self, language_model: torch.nn.Module) -> None:
        super().__init__()
        self.language_model = language_model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
        logits = self.language_model(input_ids=input_ids, attention_mask=attention_mask).logits
        # Both functions keep the order, so the maximum may be taken first; what ReLU leaves is
        # never below the 0 that padding counts as.
        highest = (logits * attention_mask.unsqueeze(-1).to(logits.dtype)).amax(dim=1)
        return (torch.log1p(torch.relu(highest)).to(torch.float32),)


class ClassificationModule(TaskModule):
    """Logits of an encoder with a classification head of its own; [batch, num_labels]."""

    output_names = ("logits",)

    def __init__(self, classifier: torch.nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor]:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        return (self.classifier(**inputs).logits.to(torch.float32),)


class CausalClassificationModule(TaskModule):
    """Logits of a decoder, read at its last token or from a pooled vector; [batch, num_labels].

    The last token is found by the mask: transformers looks for the last one that is not the
    padding id, which many such checkpoints do not state.
    """

    output_names = ("logits",)

    def __init__(
        self,
        decoder: torch.nn.Module,
        score: torch.nn.Module,
        *,
        pooling: Pooling = Pooling.LAST_TOKEN,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.score = score
        self.pooling = pooling
        self.temperature = temperature

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
        hidden = self.decoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        pooled = pool(hidden, attention_mask, self.pooling)
        logits = self.score(pooled)
        if self.temperature != 1.0:
            logits = logits / self.temperature
        return (logits.to(torch.float32),)


class TokenClassificationModule(TaskModule):
    """Logits of every token; [batch, length, num_labels]."""

    output_names = ("token_logits",)

    def __init__(self, classifier: torch.nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
        outputs = self.classifier(input_ids=input_ids, attention_mask=attention_mask)
        return (outputs.logits.to(torch.float32),)


def pool(hidden: torch.Tensor, attention_mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Make one vector of each sequence's token vectors.

    hidden: [batch, length, hidden_size]; attention_mask: [batch, length], padded right.
    Source: sentence-transformers `Pooling`.
    """
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    match pooling:
        case Pooling.CLS:
            return hidden[:, 0]
        case Pooling.LAST_TOKEN:
            last = attention_mask.sum(dim=1, keepdim=True).to(torch.int64).unsqueeze(-1) - 1
            return torch.gather(hidden, 1, last.expand(-1, 1, hidden.shape[-1])).squeeze(1)
        case Pooling.MAX:
            return hidden.masked_fill(mask == 0, torch.finfo(hidden.dtype).min).amax(dim=1)
        case Pooling.MEAN:
            return (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        case Pooling.MEAN_SQRT_LEN:
            return (hidden * mask).sum(dim=1) / mask.sum(dim=1).sqrt()
        case Pooling.WEIGHTED_MEAN:
            weights = mask * torch.arange(1, hidden.shape[1] + 1, dtype=hidden.dtype).view(1, -1, 1)
            return (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        case Pooling.SPLADE:
            raise AssertionError("SPLADE is no pooling of hidden states")


def graph_inputs(spec: ModelSpec) -> tuple[TensorInfo, ...]:
    """Return what the graph of such a model takes, in the order of its module's arguments."""
    names = ["input_ids", "attention_mask"]
    if spec.takes_token_type_ids:
        names.append("token_type_ids")
    return tuple(TensorInfo(name=name, dtype="int32", shape=("batch", "length")) for name in names)
