"""What Truss says of a configuration once it has seen which architecture the checkpoint names.

Truss logs some of these as errors, and goes on all the same; so none of them fails a build.
"""

from collections.abc import Iterator

from beicli.config.problems import ConfigProblem
from beicli.config.schema import BaseModel, Config
from beicli.config.source import ConfigSource
from beicli.config.truss_rules import BUILD
from beicli.findings import Level, Rule

BERT_ON_ENCODER = Rule(
    name="bert-on-encoder",
    level=Level.WARNING,
    why="the platform's `encoder` is made for causal models; a BERT runs faster on `encoder_bert`",
)
BERT_ON_DECODER = Rule(
    name="bert-on-decoder",
    level=Level.WARNING,
    why="a BERT generates no text, so the platform's build fails",
)
CAUSAL_LM_ON_ENCODER = Rule(
    name="causal-lm-on-encoder",
    level=Level.INFO,
    why="Truss takes it for a text generator; with a `modules.json` its hidden states are embedded",
)
CLASSIFIER_ON_DECODER = Rule(
    name="classifier-on-decoder",
    level=Level.WARNING,
    why="a classifier generates no text, so the platform's build fails",
)
RULES = (BERT_ON_ENCODER, BERT_ON_DECODER, CAUSAL_LM_ON_ENCODER, CLASSIFIER_ON_DECODER)

_CONVERSION_SCRIPT = (
    "https://github.com/michaelfeil/infinity/blob/c030718f3bf163237caa8898ee59cd53ba213124"
    "/docs/lm_head_to_classifier/convert_lm.py"
)


def architecture_problems(
    source: ConfigSource, config: Config, architecture: str
) -> Iterator[ConfigProblem]:
    """What Truss says of `architecture`, the first that the checkpoint's `config.json` names."""
    base_model = config.trt_llm.build.base_model
    path = (*BUILD, "base_model")
    prefix = f"Your model architecture {architecture} indicates a "
    if "bert" in architecture.lower() and base_model is not BaseModel.ENCODER_BERT:
        yield source.problem(
            path,
            f"{prefix}BERT-like based model. Consider setting `trt_llm.build.base_model` to"
            " `encoder_bert` for better performance and compatibility.",
            hint="write `base_model: encoder_bert`",
            rule=BERT_ON_ENCODER,
        )
        if base_model is BaseModel.DECODER:
            yield source.problem(
                path,
                f"{prefix}BERT-like based model. but you set `trt_llm.build.base_model` to"
                " `decoder`. Please set it to `encoder_bert`.",
                hint="write `base_model: encoder_bert`",
                rule=BERT_ON_DECODER,
            )
    # Truss has a second, shorter text for the same, logged just before.
    if "ForCausalLM" in architecture and base_model is not BaseModel.DECODER:
        yield source.problem(
            path,
            f"{prefix}CausalLM based model. but you set `trt_llm.build.base_model` to `encoder` or"
            " `encoder_bert`.  Deploy it as `decoder` model instead, if you want to use it for"
            " text-generation. (most likley this is what you do) In the rare event you want to use"
            " it for Sequence classification via the first logit only: Please covert the CausalLM"
            f" head using this script:  {_CONVERSION_SCRIPT}",
            hint="nothing, if it embeds; name a `-seq` checkpoint if it should classify",
            rule=CAUSAL_LM_ON_ENCODER,
        )
    if "ForSequenceClassification" in architecture and base_model is BaseModel.DECODER:
        yield source.problem(
            path,
            f"{prefix}SequenceClassification based model, but you set `trt_llm.build.base_model` to"
            " `decoder`. Please set it to `encoder` or `encoder_bert`.",
            hint="write `base_model: encoder_bert`, or `encoder` for a causal model",
            rule=CLASSIFIER_ON_DECODER,
        )
