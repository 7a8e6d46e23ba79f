from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from beicli.errors import ArtifactError, EmptyInputError, RequestError
from beicli.pipeline.rerank_prompt import PromptEncoder, RerankPrompt
from beicli.pipeline.tokenizer import Encoding, Tokenizer, Truncation, TruncationDirection

LEFT = Truncation(direction=TruncationDirection.LEFT)
REFUSED = Truncation(allowed=False)
PLAIN = "query: {{ query }} document: {{ document }} relevant:\n"
TWICE = "{{ document }} | {{ query }} | {{ document }} relevant:\n"
CHANGED = "{{ query | trim }}: {{ document | upper | trim }} relevant:\n"
BRANCHING = "{% if document %}{{ query }}: {{ document }}{% else %}-{% endif %} relevant:\n"
CLOSING = " relevant:\n"

texts = st.text(alphabet=st.sampled_from("ab é日🤖{}%\n "), max_size=60)
documents = st.lists(
    st.sampled_from(["word ", "日本", "🤖", "  ", "longerword", "{{ query }}"])
).map("".join)


def characters() -> tokenizers.Tokenizer:
    """A tokenizer of bytes, without merges: its every length can be told by hand."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(
        models.BPE({letter: index for index, letter in enumerate(alphabet)}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@cache
def bytes_encoder(template: str, max_input_length: int) -> PromptEncoder:
    tokenizer = Tokenizer(characters(), max_input_length=max_input_length)
    return PromptEncoder(tokenizer, RerankPrompt.parse(template))


def text_of(encoding: Encoding) -> str:
    return characters().decode(encoding.input_ids.tolist())


def shortened(document: str, direction: TruncationDirection) -> Iterator[str]:
    """Yield a document cut by ever more characters, itself first."""
    for kept in range(len(document), -1, -1):
        is_left = direction is TruncationDirection.LEFT
        yield document[len(document) - kept :] if is_left else document[:kept]


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{{ query }", "not a Jinja template"),
        ("{% if %}{{ query }}{{ document }}", "not a Jinja template"),
        ("{{ query }}", r"uses `query`; `document`, `query` are wanted"),
        ("only words", r"uses no text; `document`, `query`"),
        ("{{ query }} {{ document }} {{ doc }}", r"uses `doc`, `document`, `query`"),
        ("{{ query.__class__.__mro__ }}{{ document }}", "cannot be written"),
        ("{{ query + 1 }}{{ document }}", "cannot be written"),
    ],
)
def test_a_template_that_is_no_prompt_of_both_texts_is_refused(template: str, found: str) -> None:
    with pytest.raises(ArtifactError, match=found) as failure:
        RerankPrompt.parse(template)

    assert "rebuild" in (failure.value.hint or "")


def test_a_template_may_use_what_jinja_itself_has() -> None:
    prompt = RerankPrompt.parse("{% for _ in range(2) %}{{ query }}{% endfor %}{{ document }}")

    assert prompt.render("q", "d") == "qqd"


def test_newlines_around_tags_and_at_the_end_stay() -> None:
    prompt = RerankPrompt.parse("\n  {% if query %}\n{{ query }}\n{% endif %}\n{{ document }}\n\n")

    assert prompt.render("q", "d") == "\n  \nq\n\nd\n\n"


@given(query=texts, document=texts)
@example(query="{{ document }}", document="{% raw %}{{ query }}{# gone #}")
@example(query="<b>&amp;", document="\r\n")
def test_texts_are_written_into_the_prompt_as_they_are(query: str, document: str) -> None:
    rendered = RerankPrompt.parse(PLAIN).render(query, document)

    assert rendered == f"query: {query} document: {document} relevant:\n"


@pytest.mark.parametrize(
    ("template", "document", "place"),
    [
        (PLAIN, "d", 19),
        (PLAIN, "", 19),
        (TWICE, "d", None),
        (CHANGED, "d", None),
        (CHANGED, "D", 3),
        (CHANGED, "D ", None),
        ("{{ document[:3] }}{{ query }}", "abcd", None),
        ("{% if document %}{{ query }}{% endif %}", "abc", None),
    ],
)
def test_the_place_of_a_document_is_where_it_stands_once_as_it_is(
    template: str, document: str, place: int | None
) -> None:
    assert RerankPrompt.parse(template).locate("q", document) == place


def test_prompts_are_tokenised_as_they_are_and_in_order() -> None:
    encodings = bytes_encoder(PLAIN, 60).encode([("q", "one"), ("Q", "three"), ("q", "")])

    assert [text_of(encoding) for encoding in encodings] == [
        "query: q document: one relevant:\n",
        "query: Q document: three relevant:\n",
        "query: q document:  relevant:\n",
    ]
    assert [encoding.num_dropped_tokens for encoding in encodings] == [0, 0, 0]


@pytest.mark.parametrize("template", [PLAIN, TWICE, CHANGED, BRANCHING])
@given(document=documents, query=st.sampled_from(["q", "日本 ", ""]), room=st.integers(0, 40))
# A space that is a token by itself, first in what the tokenizer gives as its second piece.
@example(document="word word {{ query }}  longerword", query="q", room=11)
@settings(max_examples=60, deadline=None)
def test_of_an_overlong_document_as_much_is_kept_as_fits(
    template: str, document: str, query: str, room: int
) -> None:
    if not query and not document:
        return
    prompt = RerankPrompt.parse(template)
    limit = max(len(prompt.render(query, "").encode()) + room, 24)
    for direction in TruncationDirection:
        # The longest that fits, found by trying them all.
        candidates = [prompt.render(query, cut) for cut in shortened(document, direction)]
        wanted = next(text for text in candidates if len(text.encode()) <= limit)

        [encoding] = bytes_encoder(template, limit).encode(
            [(query, document)], truncation=Truncation(direction=direction)
        )

        assert text_of(encoding) == wanted
        assert encoding.original_length == len(candidates[0].encode())


def test_only_the_overlong_among_many_documents_are_cut() -> None:
    pairs = [("q", "d" * length) for length in (1, 50, 2, 70)]

    encodings = bytes_encoder(PLAIN, 45).encode(pairs)

    room = 45 - len("query: q document:  relevant:\n")
    assert [text_of(encoding) for encoding in encodings] == [
        f"query: q document: {'d' * min(length, room)} relevant:\n" for length in (1, 50, 2, 70)
    ]
    assert [e.num_dropped_tokens for e in encodings] == [0, 50 - room, 0, 70 - room]


@pytest.mark.parametrize("truncation", [Truncation(), LEFT])
@pytest.mark.parametrize("query", ["q" * 30, "q" * 31, "q" * 70, "日本" * 20])
@pytest.mark.parametrize("template", [PLAIN, TWICE])
def test_a_query_that_leaves_no_room_is_refused_however_short_the_document(
    template: str, query: str, truncation: Truncation
) -> None:
    num_tokens = len(RerankPrompt.parse(template).render(query, "").encode())
    encoder = bytes_encoder(template, 40)
    with pytest.raises(RequestError) as failure:
        encoder.encode([("q", "d"), (query, "d")], truncation=truncation)

    assert failure.value.message.endswith(f"less than 40 tokens. Given: {num_tokens}")
    assert "input 1" in (failure.value.hint or "")
    assert "shorten the query" in (failure.value.hint or "")


def test_an_overlong_prompt_is_refused_where_truncation_is() -> None:
    encoder = bytes_encoder(PLAIN, 45)
    with pytest.raises(RequestError) as document_failure:
        encoder.encode([("q", "d"), ("q", "d" * 50)], truncation=REFUSED)
    with pytest.raises(RequestError) as query_failure:
        encoder.encode([("q", "d"), ("q" * 40, "d" * 50)], truncation=REFUSED)

    num_around = len("query:  document:  relevant:\n")
    assert document_failure.value.message == (
        f"Input validation error: `inputs` must have less than 45 tokens. Given: {num_around + 51}"
    )
    assert (document_failure.value.hint or "").startswith("input 1 is too long; send `truncate")
    assert query_failure.value.message.endswith(f"Given: {num_around + 90}")
    assert f"alone have {num_around + 40} tokens" in (query_failure.value.hint or "")


def test_documents_beyond_the_guard_are_cut_or_refused_unread() -> None:
    encoder = bytes_encoder(PLAIN, 40)
    document = "日" * 12_000
    [encoding] = encoder.encode([("q", document)])
    with pytest.raises(RequestError, match=r"less than 10000 characters\. Given: 12001"):
        encoder.encode([("q", document)], truncation=REFUSED)
    with pytest.raises(RequestError, match=r"less than 10000 characters\. Given: 12000"):
        encoder.encode([(document, "d")])

    num_around = len("query: q document:  relevant:\n")
    assert text_of(encoding) == "query: q document: 日日日 relevant:\n"
    # 250 characters of each of 40 tokens are looked at, three tokens each.
    assert encoding.original_length == num_around + 3 * 10_000


def test_a_document_that_shrinks_in_its_prompt_still_counts_as_cut_beyond_the_guard() -> None:
    encoder = bytes_encoder("{{ query }}{{ document | trim }} relevant:\n", 40)

    [encoding] = encoder.encode([("q", " " * 20_000)])

    assert text_of(encoding) == "q relevant:\n"
    assert encoding.num_dropped_tokens == 1


def test_a_pair_without_any_text_is_refused() -> None:
    with pytest.raises(EmptyInputError) as failure:
        bytes_encoder(PLAIN, 40).encode([("q", ""), ("", "")])

    assert "input 1" in (failure.value.hint or "")


QWEN3 = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that "
    "answer the query\n<Query>: {{ query }}\n<Document>: {{ document }}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)


@pytest.mark.models
@pytest.mark.parametrize("checkpoint", ["random/qwen3", "xlmr-e5-small"])
@given(
    document=st.lists(
        st.sampled_from(
            [
                "the ",
                "unbelievably ",
                "\n\n",
                "  ",
                "日本語",
                "🤖",
                "ﬁ",
                "1234567",
                "<|im_end|>",
                "…",
            ]
        ),
        min_size=100,
        max_size=200,
    ).map("".join),
    query=st.sampled_from(["what is it", " 日本 ", "a\n"]),
    direction=st.sampled_from(list(TruncationDirection)),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_real_tokenizers_fill_the_window_and_keep_the_closing_part(
    models_directory: Path,
    checkpoint: str,
    document: str,
    query: str,
    direction: TruncationDirection,
) -> None:
    tokenizer = opened(models_directory / checkpoint)
    prompt = RerankPrompt.parse(QWEN3)

    [encoding] = PromptEncoder(tokenizer, prompt).encode(
        [(query, document)], truncation=Truncation(direction=direction)
    )

    ids = encoding.input_ids.tolist()
    rendered = [prompt.render(query, cut) for cut in shortened(document, direction)]
    encoded = [found.tolist() for found in tokenizer.encode_verbatim(rendered)]
    # It is the prompt of some beginning, or end, of the document, and as good as full.
    assert ids in encoded
    fullest = min(len(encoded[0]), tokenizer.max_input_length)
    assert fullest - 6 <= len(ids) <= fullest
    assert encoding.original_length == len(encoded[0])


@cache
def opened(path: Path) -> Tokenizer:
    return Tokenizer.open(path, max_input_length=220)
