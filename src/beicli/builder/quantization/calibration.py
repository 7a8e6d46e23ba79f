"""The texts that activations are observed on, tokenised as the checkpoint does.

They are not those of the accuracy gate, so that a plan is not judged by what it was fitted to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beicli.artifact.golden import Sample
from beicli.builder.quantization.texts import CALIBRATION_PAIRS, CALIBRATION_TEXTS
from beicli.builder.reference import SampleEncoder, load_tokenizer
from beicli.config.schema import QuantizationConfig
from beicli.datasets import bundled_dataset, read_dataset
from beicli.model.spec import ModelSpec, Task
from beicli.modeling.tasks import graph_inputs

Int32 = NDArray[np.int32]
_FILE_SUFFIXES = (".txt", ".jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSet:
    """The samples of a calibration.

    name: for people. max_num_tokens: after which a sample is cut.
    note: what of the configuration was not followed, and why; None if all was.
    """

    name: str
    samples: tuple[Sample, ...]
    max_num_tokens: int
    note: str | None = None

    @property
    def description(self) -> str:
        """How many samples of what."""
        return f"{len(self.samples):,} samples of {self.name}"


def choose_calibration(
    config: QuantizationConfig, spec: ModelSpec, *, config_directory: Path
) -> CalibrationSet:
    """Return the samples that `quantization_config` asks for.

    Raises UsageError if it names a file that cannot be read.
    """
    named = config.calib_dataset
    if named.endswith(_FILE_SUFFIXES):
        texts = read_dataset(config_directory / named).texts
        return CalibrationSet(
            name=named,
            samples=_samples(texts, (), spec, config.calib_size),
            max_num_tokens=config.calib_max_seq_length,
        )
    note = None
    if named != QuantizationConfig().calib_dataset:
        note = (
            f"`calib_dataset: {named}` is not downloaded; name a `.txt` or `.jsonl` file to "
            "calibrate on texts of your own"
        )
    texts = (*CALIBRATION_TEXTS, *bundled_dataset().texts)
    samples = _samples(texts, CALIBRATION_PAIRS, spec, config.calib_size)
    return CalibrationSet(
        name="bundled texts",
        samples=samples,
        max_num_tokens=config.calib_max_seq_length,
        note=note,
    )


def encode_samples(
    calibration: CalibrationSet, checkpoint: Path, spec: ModelSpec, *, max_input_length: int
) -> list[Mapping[str, Int32]]:
    """Return the inputs of the network for each sample, by name, each [1, num_tokens]."""
    # A prompt is never cut: of a model that has one the engine's own limit holds.
    if spec.rerank_template is None:
        max_input_length = min(max_input_length, calibration.max_num_tokens)
    encoder = SampleEncoder(load_tokenizer(checkpoint), spec, max_input_length)
    names = [tensor.name for tensor in graph_inputs(spec)]
    encoded = [encoder.encode(sample) for sample in calibration.samples]
    # Without special tokens an empty text is nothing at all.
    return [
        {name: inputs[name].numpy() for name in names}
        for inputs in encoded
        if inputs["input_ids"].numel() > 0
    ]


def _samples(
    texts: Sequence[str], pairs: Sequence[tuple[str, str]], spec: ModelSpec, size: int
) -> tuple[Sample, ...]:
    """Make pairs of texts for models that take pairs."""
    if spec.task is not Task.RERANKING:
        return tuple(texts[:size])
    made = [*pairs, *zip(texts[::2], texts[1::2], strict=False)]
    return tuple(made[:size])
