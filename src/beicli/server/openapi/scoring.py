"""The routes of classifiers, rerankers and token classifiers."""

from beicli.model.spec import Task
from beicli.pipeline.entities import AggregationStrategy
from beicli.server.openapi.operation import (
    INFERENCE_ERRORS,
    Example,
    JsonSchema,
    Operation,
    Served,
    negotiated,
)
from beicli.server.openapi.responses import INFERENCE_HEADERS, INFERENCE_PARAMETERS
from beicli.server.openapi.schemas import (
    COUNT,
    NUMBER,
    STRING,
    array,
    body,
    choice,
    described,
    flag,
    record,
    reference,
    truncation,
)

_TAG = "Scores"


def scoring_operations(served: Served) -> list[Operation]:
    """Describe the routes that score texts, except Cohere's."""
    return [_rerank(served), _predict(served), _predict_tokens(served)]


def _rerank(served: Served) -> Operation:
    is_sorted = served.options.rerank_order == "score"
    order = "best first" if is_sorted else "in the order of the texts"
    texts = array(STRING, min_items=1, max_items=served.options.max_client_batch_size)
    return Operation(
        method="post",
        path="/rerank",
        tag=_TAG,
        summary="Score how relevant texts are for a query",
        description=(
            f"Answers a score for each text, {order}; `index` says which text it is. A score is "
            "a probability; with `raw_scores` it is what the probability was made from."
        ),
        tasks=frozenset({Task.RERANKING}),
        request=body(
            {
                "query": reference("Text"),
                "texts": texts,
                "raw_scores": flag("Answer log-odds instead of probabilities.", default=False),
                "return_text": flag("Repeat the texts in the answer.", default=False),
                **truncation(served),
            },
            required=["query", "texts"],
        ),
        answer_description=f"A score for each text, {order}.",
        content=negotiated(
            array(
                record({"index": COUNT, "score": NUMBER, "text": STRING}, optional=["text"]),
                min_items=1,
            )
        ),
        headers=INFERENCE_HEADERS,
        parameters=INFERENCE_PARAMETERS,
        errors=INFERENCE_ERRORS,
        examples=_rerank_examples(),
    )


def _rerank_examples() -> tuple[Example, ...]:
    query, texts = "Where is the station?", ["The soup is cold.", "Turn left, it is ahead."]
    return (
        Example(
            "texts",
            "Two texts",
            {"query": query, "texts": texts},
            [{"index": 0, "score": 0.0031}, {"index": 1, "score": 0.918}],
        ),
        Example(
            "raw",
            "With log-odds and the texts, and overlong texts cut at their start",
            {
                "query": query,
                "texts": texts[1:],
                "raw_scores": True,
                "return_text": True,
                "truncate": True,
                "truncation_direction": "Left",
            },
            [{"index": 0, "score": 2.41, "text": texts[1]}],
        ),
    )


def pair() -> JsonSchema:
    """Return the schema of two texts that belong together; one of them may be empty."""
    some_text = {"contains": reference("Text")}
    return {**array(STRING, min_items=2, max_items=2), **some_text}


def _predict(served: Served) -> Operation:
    one_text = array(reference("Text"), min_items=1, max_items=1)
    batch = array(
        {"anyOf": [one_text, pair()]},
        min_items=1,
        max_items=served.options.max_client_batch_size,
    )
    labels = array(record({"score": NUMBER, "label": reference("Label")}), min_items=1)
    return Operation(
        method="post",
        path="/predict",
        tag=_TAG,
        summary="Score the labels of a classifier",
        description=(
            "Answers every label with its score, best first. The shape of `inputs` decides what "
            'is asked: `"a"` and `["a"]` are one text, `["a", "b"]` is one pair of texts, and '
            '`[["a"], ["b", "c"]]` is a batch, answered with a list for each.'
        ),
        tasks=frozenset({Task.CLASSIFICATION}),
        request=body(
            {
                "inputs": {"anyOf": [reference("Text"), one_text, pair(), batch]},
                "raw_scores": flag("Answer logits instead of probabilities.", default=False),
                **truncation(served),
            },
            required=["inputs"],
        ),
        answer_description="The labels of one input, or of each input of a batch.",
        content=negotiated({"anyOf": [labels, array(labels, min_items=1)]}),
        headers=INFERENCE_HEADERS,
        parameters=INFERENCE_PARAMETERS,
        errors=INFERENCE_ERRORS,
        examples=_predict_examples(),
    )


def _predict_examples() -> tuple[Example, ...]:
    good = [{"score": 0.93, "label": "POSITIVE"}, {"score": 0.07, "label": "NEGATIVE"}]
    bad = [{"score": 0.88, "label": "NEGATIVE"}, {"score": 0.12, "label": "POSITIVE"}]
    raw = [{"score": 2.6, "label": "POSITIVE"}, {"score": -2.2, "label": "NEGATIVE"}]
    return (
        Example("text", "One text", {"inputs": "What a lovely day"}, good),
        Example(
            "batch",
            "Two texts",
            {"inputs": [["What a lovely day"], ["The soup is cold"]]},
            [good, bad],
        ),
        Example(
            "pair",
            "A pair of texts, with logits",
            {"inputs": ["Is it nice?", "What a lovely day"], "raw_scores": True},
            raw,
        ),
    )


def _predict_tokens(served: Served) -> Operation:
    max_inputs = served.options.max_client_batch_size
    texts = array(reference("Text"), min_items=1, max_items=max_inputs)
    entity = record(
        {
            "token": described(STRING, "The text from `start` to `end`, or a special token."),
            "token_id": described(COUNT, "0 for an entity of several tokens."),
            "start": described(COUNT, "In code points of the text."),
            "end": COUNT,
            "results": {
                "type": "object",
                "additionalProperties": NUMBER,
                "minProperties": 1,
                "description": "Scores by label: the best, or all with `raw_scores` and `none`.",
            },
        }
    )
    return Operation(
        method="post",
        path="/predict_tokens",
        tag=_TAG,
        summary="Find the named entities of texts",
        description=(
            "Answers a list for each text, in their order. Without an `aggregation_strategy` it "
            "holds every token, special ones included; with one it holds entities. Lists in a list "
            "are read one after the other: two texts are never a pair here."
        ),
        tasks=frozenset({Task.TOKEN_CLASSIFICATION}),
        request=body(
            {
                "inputs": {
                    "anyOf": [
                        reference("Text"),
                        array(
                            {"anyOf": [reference("Text"), texts]},
                            min_items=1,
                            max_items=max_inputs,
                        ),
                    ]
                },
                "aggregation_strategy": choice(
                    "How tokens become entities.",
                    AggregationStrategy,
                    default=AggregationStrategy.NONE,
                ),
                "raw_scores": flag(
                    "Answer logits: of all labels with `none`, else of the entity's.", default=False
                ),
                **truncation(served, if_not="reads them in overlapping parts"),
            },
            required=["inputs"],
        ),
        answer_description="For each text its tokens or entities, in the order of the text.",
        content=negotiated(array(array(entity), min_items=1)),
        headers=INFERENCE_HEADERS,
        parameters=INFERENCE_PARAMETERS,
        errors=INFERENCE_ERRORS,
        examples=_predict_tokens_examples(),
    )


def _predict_tokens_examples() -> tuple[Example, ...]:
    def entity(token: str, token_id: int, start: int, results: dict[str, float]) -> JsonSchema:
        return {
            "token": token,
            "token_id": token_id,
            "start": start,
            "end": start + len(token),
            "results": results,
        }

    ada = entity("Ada Lovelace", 0, 0, {"PER": 0.997})
    london = entity("London", 0, 22, {"LOC": 0.999})
    return (
        Example(
            "entities",
            "The entities of a text, as `transformers` finds them",
            {"inputs": [["Ada Lovelace lived in London"]], "aggregation_strategy": "max"},
            [[ada, london]],
        ),
        Example(
            "tokens",
            "The label of every token",
            {"inputs": ["in London"], "aggregation_strategy": "none"},
            [
                [
                    {**entity("[CLS]", 101, 0, {"O": 0.9999}), "end": 0},
                    entity("in", 1999, 0, {"O": 0.9998}),
                    entity("London", 2414, 3, {"B-LOC": 0.998}),
                    {**entity("[SEP]", 102, 0, {"O": 0.9999}), "end": 0},
                ]
            ],
        ),
    )
