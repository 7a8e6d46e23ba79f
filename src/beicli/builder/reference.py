"""What transformers says, in float32, one sample at a time: the measure of every engine.

It shares no padding, no tokenising and no templating code with what serves, and reads the tokenizer
of the checkpoint, not the engine's copy: `tokenizer.json` as it is, which is how transformers 4 and
text-embeddings-inference read it. Of an ONNX checkpoint ONNX Runtime computes the network.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from beicli.artifact.golden import Sample, excerpt
from beicli.errors import BuildError, CheckpointError
from beicli.model.spec import ModelSpec, Task
from beicli.model.tokenizer_code import appended_token
from beicli.modeling.quiet import quiet
from beicli.modeling.tasks import TaskModule, graph_inputs

Float32 = NDArray[np.float32]


def reference_outputs(
    module: TaskModule,
    checkpoint: Path,
    spec: ModelSpec,
    samples: Sequence[Sample],
    *,
    max_input_length: int,
) -> list[Float32]:
    """Compute what `InferencePipeline.outputs` gives: vectors, weights or logits of each sample.

    [dimension] of unit length for embeddings, [vocab_size] for sparse ones, [num_labels] for
    classifiers, [num_tokens, num_labels] for token classifiers.
    Raises BuildError if a prompt does not fit the window, or a number is not finite.
    """
    encoder = SampleEncoder(load_tokenizer(checkpoint), spec, max_input_length)
    names = [tensor.name for tensor in graph_inputs(spec)]
    outputs = []
    with torch.no_grad():
        for sample in samples:
            encoded = encoder.encode(sample)
            output = module(*[encoded[name] for name in names])[0][0]
            if spec.task is Task.EMBEDDING:
                output = torch.nn.functional.normalize(output, dim=-1)
            outputs.append(output.numpy())
    if not all(np.isfinite(output).all() for output in outputs):
        raise BuildError(
            "the float32 reference itself gives numbers that are not finite",
            hint="the checkpoint's weights are damaged or overflow; try another revision",
        )
    return outputs


class SampleEncoder:
    """Tokenises samples as transformers does for this model."""

    def __init__(self, tokenizer: Any, spec: ModelSpec, max_input_length: int) -> None:
        self._tokenizer = tokenizer
        self._spec = spec
        self._max_input_length = max_input_length
        environment = ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined, keep_trailing_newline=True
        )
        template = spec.rerank_template
        self._template = None if template is None else environment.from_string(template)

    def encode(self, sample: Sample) -> Mapping[str, torch.Tensor]:
        """Return ids, mask and token types, each [1, num_tokens]."""
        encoded = self._call_tokenizer(sample)
        ids = encoded["input_ids"]
        if "token_type_ids" not in encoded:
            encoded["token_type_ids"] = torch.zeros_like(ids)
        return {name: tensor.to(torch.int32) for name, tensor in encoded.items()}

    def _call_tokenizer(self, sample: Sample) -> dict[str, torch.Tensor]:
        # Asked for by name: transformers 5 leaves them out for tokenizers without a class of their
        # own, which transformers 4, by which such models were trained, did not.
        options: dict[str, Any] = {
            "return_tensors": "pt",
            "return_token_type_ids": self._spec.takes_token_type_ids,
        }
        truncation = {"truncation": True, "max_length": self._max_input_length}
        if isinstance(sample, str):
            return dict(self._tokenizer(self._prepare(sample), **truncation, **options))
        if self._template is None:
            texts = [self._lowered(text) for text in sample]
            return dict(self._tokenizer(*texts, **truncation, **options))
        prompt = self._template.render(query=sample[0], document=sample[1])
        encoded = dict(self._tokenizer(self._lowered(prompt), add_special_tokens=False, **options))
        length = encoded["input_ids"].shape[1]
        if length > self._max_input_length:
            raise BuildError(
                f"the rerank template makes {length} tokens of {excerpt(sample)!r}; this engine "
                f"takes {self._max_input_length}",
                hint="raise `trt_llm.build.max_num_tokens`, or shorten the template",
            )
        return encoded

    def _prepare(self, text: str) -> str:
        name = self._spec.default_prompt_name
        return self._lowered(text if name is None else self._spec.prompts[name] + text)

    def _lowered(self, text: str) -> str:
        return text.lower() if self._spec.do_lower_case else text


def load_tokenizer(checkpoint: Path) -> Any:
    """Load the checkpoint's `tokenizer.json` with transformers, doing what its own code would.

    Nothing of the engine is read. Raises BuildError if transformers cannot load it.
    """
    try:
        return _load(PreTrainedTokenizerFast, checkpoint)
    except CheckpointError:
        raise
    except Exception as error:
        # transformers lets through whatever its parsing of a bad file ran into.
        raise BuildError(
            f"transformers cannot load the tokenizer of the checkpoint: "
            f"{type(error).__name__}: {error}",
            hint="fetch the checkpoint again, or take another revision of it",
        ) from error


def load_rebuilt_tokenizer(checkpoint: Path) -> PreTrainedTokenizerFast | None:
    """Load the tokenizer as `AutoTokenizer` of transformers 5 does, by the rules of its class.

    Of `tokenizer.json` many classes keep the vocabulary and the post-processor alone. None if it
    cannot be loaded so, as with a class of the checkpoint's own, which is not run.
    """
    try:
        tokenizer = _load(AutoTokenizer, checkpoint, trust_remote_code=False)
    except Exception:  # noqa: BLE001 - nothing depends on it but a comparison
        return None
    return tokenizer if isinstance(tokenizer, PreTrainedTokenizerFast) else None


def _load(loader: Any, checkpoint: Path, **options: Any) -> Any:
    with quiet():
        tokenizer = loader.from_pretrained(checkpoint, local_files_only=True, **options)
        token = appended_token(checkpoint)
        if token is not None:
            _append_token(tokenizer, token)
        return tokenizer


def _append_token(tokenizer: Any, token: str) -> None:
    """Put `token` after every text, unless the tokenizer does, as the checkpoint's code would."""
    if tokenizer("a")["input_ids"][-1] == tokenizer.convert_tokens_to_ids(token):
        return
    tokenizer.eos_token = token
    # Makes transformers write a post-processor of its own.
    tokenizer.add_eos_token = True
