"""Every architecture's vectors are those of sentence-transformers, which reads the same recipe."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tests.builder.architectures import ARCHITECTURES, WINDOW, Architecture
from tests.builder.random_models import save_random

from beicli.builder.texts import GOLDEN_TEXTS
from beicli.model.inspect import inspect_checkpoint
from beicli.modeling.loading import load_module

TOLERANCE = 1e-5


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_vectors_are_those_of_sentence_transformers(
    architecture: Architecture, tmp_path: Path
) -> None:
    checkpoint = save_random(tmp_path, architecture, "Model")
    reference = SentenceTransformer(str(checkpoint), device="cpu", local_files_only=True)
    reference.max_seq_length = WINDOW
    # Alone: padding of its own choice would be on the left for some, with other positions.
    wanted = [reference.encode(text, show_progress_bar=False) for text in GOLDEN_TEXTS]
    module = load_module(checkpoint, inspect_checkpoint(checkpoint))

    for text, vector in zip(GOLDEN_TEXTS, wanted, strict=True):
        encoded = reference.tokenizer(text, truncation=True, max_length=WINDOW, return_tensors="pt")
        with torch.no_grad():
            pooled = module(encoded["input_ids"], encoded["attention_mask"])[0][0]
        found = torch.nn.functional.normalize(pooled, dim=-1).numpy()
        np.testing.assert_allclose(found, vector, rtol=0, atol=TOLERANCE)
