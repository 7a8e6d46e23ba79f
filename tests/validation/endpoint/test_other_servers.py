"""Servers that other people wrote: what is theirs is no fault, and what is broken is found."""

import pytest
from tests.server.fakes import FakeEngine, live_server
from tests.validation.endpoint.proxy import Exchange, proxy
from tests.validation.endpoint.scripted import (
    NOT_FOUND,
    Asked,
    OpenAIServer,
    Said,
    Script,
    refusal,
    scripted,
)

from beicli.errors import UsageError
from beicli.model.spec import Task
from beicli.validation.endpoint.conformance import validate_server
from beicli.validation.findings import TargetReport, Verdict


def report_on(script: Script, *, suffix: str = "", **options: str) -> TargetReport:
    with scripted(script) as url:
        return validate_server(url + suffix, timeout_s=10, **options)


def rules_of(report: TargetReport) -> dict[str, str]:
    return {finding.rule: finding.what for finding in report.findings}


def contracts_of(report: TargetReport) -> dict[str, tuple[str, str]]:
    return {
        entry["contract"]: (entry["verdict"], entry["route"]) for entry in report.facts["contracts"]
    }


def test_a_server_without_health_is_no_worse_for_it() -> None:
    report = report_on(OpenAIServer(has_health=False))

    assert report.verdict is Verdict.CLEAN, report.findings
    assert set(rules_of(report)) == {"server-no-health"}


@pytest.mark.parametrize(
    ("route", "suffix"), [("/embeddings", ""), ("/embeddings", "/v1"), ("/v3/embeddings", "/v3")]
)
def test_other_bases_are_found_and_named(route: str, suffix: str) -> None:
    report = report_on(OpenAIServer(route=route), suffix=suffix)

    assert report.verdict is Verdict.CLEAN, report.findings
    assert contracts_of(report)["OpenAI embeddings"] == ("kept", "/embeddings")
    assert report.facts["base"].endswith("" if suffix == "/v1" else suffix)


def test_the_right_one_of_several_models_is_asked() -> None:
    report = report_on(OpenAIServer(model="e5", models=("llama", "mistral", "e5")))

    assert report.verdict is Verdict.CLEAN, report.findings
    assert report.facts["model"] == "e5"


def test_a_model_that_nobody_knows_is_told_apart_from_a_route_that_is_missing() -> None:
    report = report_on(OpenAIServer(models=("llama", "mistral")))

    what = rules_of(report)["server-no-contract"]
    assert "does not exist" in what
    assert "llama" in what
    assert contracts_of(report)["OpenAI embeddings"][0] == "refused"


def test_a_gateway_that_forbids_what_it_does_not_know_wants_no_key() -> None:
    embeddings = OpenAIServer()

    def script(asked: Asked) -> Said:
        said = embeddings(asked)
        return Said(403, {"message": "Missing Authentication Token"}) if said is NOT_FOUND else said

    report = report_on(script)

    assert report.verdict is Verdict.CLEAN, report.findings
    assert not report.findings


def infinity(asked: Asked) -> Said:
    """Cohere's form at `/rerank`."""
    if asked.method == "GET" or asked.path != "/rerank":
        return NOT_FOUND
    if "documents" not in asked.body:
        return Said(422, {"detail": "Field required: documents"})
    results = [
        {"index": index, "relevance_score": len(text) / 500}
        for index, text in enumerate(asked.body["documents"])
    ]
    results.sort(key=lambda entry: -entry["relevance_score"])
    return Said(200, {"results": results[: asked.body.get("top_n")]})


def test_coheres_form_at_teis_route_is_no_fault() -> None:
    report = report_on(infinity)

    assert report.verdict is Verdict.CLEAN, report.findings
    assert contracts_of(report)["Jina rerank"] == ("kept", "/rerank")
    assert contracts_of(report)["TEI rerank"][0] == "not offered"


def test_a_route_that_takes_lists_only_is_checked_with_lists() -> None:
    embeddings = OpenAIServer()

    def script(asked: Asked) -> Said:
        if isinstance(asked.body, dict) and isinstance(asked.body.get("input"), str):
            return refusal(422, "input should be a list")
        return embeddings(asked)

    report = report_on(script)

    assert set(rules_of(report)) == {"server-lists-only"}
    assert contracts_of(report)["OpenAI embeddings"][0] == "kept"


@pytest.mark.parametrize(
    ("status", "rule"), [(400, "server-contract-broken"), (424, "server-contract-missing")]
)
def test_a_reranker_that_refuses_to_rank_fails(status: int, rule: str) -> None:
    def change(exchange: Exchange) -> None:
        if exchange.path == "/rerank":
            exchange.status, exchange.value = status, {"error": "cannot parse"}

    engine = FakeEngine(task=Task.RERANKING)
    with live_server(engine) as server, proxy(server.url, change) as url:
        report = validate_server(url, timeout_s=10)

    assert report.verdict is Verdict.FAILED
    assert rule in rules_of(report)


def test_a_redirect_is_one_finding_that_names_where_it_leads() -> None:
    report = report_on(lambda asked: Said(308, b"", {"Location": f"https://x.test{asked.path}"}))

    assert set(rules_of(report)) == {"server-redirects"}
    assert "https://x.test" in rules_of(report)["server-redirects"]


def test_pages_for_everything_are_no_contract() -> None:
    report = report_on(lambda asked: Said(200, b"<html>It works!</html>"))

    assert set(rules_of(report)) == {"server-no-contract"}


@pytest.mark.parametrize(
    "content",
    [
        b'{"data": [{"index": 0, "embedding": [1' + b"0" * 400 + b"]}]}",
        b'{"data": [{"index": 0, "embedding": ' + b"[" * 5000 + b"]" * 5000 + b"}]}",
        b'[{"label": "\\ud800", "score": 2}]',
    ],
)
def test_nothing_a_server_says_escapes(content: bytes) -> None:
    def script(asked: Asked) -> Said:
        if asked.path == "/v1/models":
            return Said(200, b'{"data": [{"id": "a\\ud800b"}]}')
        return Said(200, content)

    report = report_on(script)

    assert report.verdict is Verdict.FAILED
    for finding in report.findings:
        finding.what.encode()
        str(finding.reproduce).encode()
        assert len(finding.what) <= 1_001


def test_a_comparison_shows_both_requests() -> None:
    embeddings = OpenAIServer()

    def script(asked: Asked) -> Said:
        said = embeddings(asked)
        if said.status == 200 and asked.path == "/v1/embeddings" and len(said.value["data"]) > 1:
            said.value["data"][1]["embedding"].reverse()
        return said

    (finding,) = [each for each in report_on(script).findings if each.rule == "openai-order"]

    assert finding.what.startswith("input 1 of 5")
    assert len(str(finding.reproduce).split("\n")) == 2


def test_fastapis_own_words_are_words() -> None:
    embeddings = OpenAIServer()

    def script(asked: Asked) -> Said:
        said = embeddings(asked)
        is_refusal = said.status == 400
        return Said(422, {"detail": [{"msg": "Field required"}]}) if is_refusal else said

    assert report_on(script).verdict is Verdict.CLEAN


def test_a_user_in_the_address_is_sent_and_never_shown() -> None:
    seen = set()
    embeddings = OpenAIServer()

    def script(asked: Asked) -> Said:
        seen.add(asked.authorization)
        return embeddings(asked) if asked.authorization else Said(401)

    with scripted(script) as url:
        report = validate_server(url.replace("//", "//user:s3cret@"))

    assert report.verdict is Verdict.CLEAN, report.findings
    assert "Basic dXNlcjpzM2NyZXQ=" in seen
    assert "s3cret" not in repr(report)
    assert "***@" in report.target


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/?api_key=s3cret", "http://127.0.0.1:9/#x"])
def test_a_query_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(UsageError) as raised:
        validate_server(url)

    assert "s3cret" not in raised.value.message


def test_a_small_batch_limit_is_never_exceeded_by_mistake() -> None:
    sizes = set()

    def change(exchange: Exchange) -> None:
        if exchange.path == "/info":
            exchange.value["max_client_batch_size"] = 3
        body = exchange.body if isinstance(exchange.body, dict) else {}
        inputs = body.get("inputs")
        size = len(inputs) if isinstance(inputs, list) else 1
        sizes.add(size)
        if size > 3:
            what = f"batch size {size} > maximum allowed batch size 3"
            exchange.status, exchange.value = 422, {"error": what, "error_type": "Validation"}

    with live_server() as server, proxy(server.url, change) as url:
        report = validate_server(url)

    assert sizes - {0} == {1, 2, 3, 4}
    assert "tei-order" not in rules_of(report)
