"""Random models of the architectures' table, saved as checkpoints; needs torch."""

from pathlib import Path

import torch
import transformers
from tests.builder.architectures import WINDOW, Architecture
from tests.builder.tiny_models import save_checkpoint, save_model, vocab_size

_LABELS = ("O", "B-PER", "I-PER")


def save_random(
    directory: Path, architecture: Architecture, head: str, *, window: int = WINDOW
) -> Path:
    """Save a random model of that class, as its kind of checkpoint is published.

    No bias and no norm keeps its neutral starting value.
    """
    model_class = getattr(transformers, architecture.prefix + head)
    ids = {"vocab_size": vocab_size(), "pad_token_id": int(architecture.has_offset)}
    labels = {"id2label": dict(enumerate(_LABELS))} if head.endswith("Classification") else {}
    config = model_class.config_class(
        **architecture.config,
        **ids,
        **labels,
        max_position_embeddings=window + 2 * architecture.has_offset,
    )
    torch.manual_seed(1)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    if head == "Model":
        return save_checkpoint(directory, model, pooling=architecture.pooling)
    return save_model(directory, model)
