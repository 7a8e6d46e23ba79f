"""Where `bei serve` sends traces: its option, OpenTelemetry's variables, or nowhere."""

import sys

import pytest

from beicli.cli.app import main
from beicli.cli.traces import traces_endpoint

BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"
WHOLE = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
TRACES_PROTOCOL = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (BASE, WHOLE, PROTOCOL, TRACES_PROTOCOL, "OTEL_TRACES_EXPORTER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def _no_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    monkeypatch.delitem(sys.modules, "beicli.server.tracing", raising=False)


@pytest.mark.parametrize(
    ("option", "variables", "endpoint"),
    [
        (None, {}, None),
        (None, {BASE: ""}, None),
        ("http://c:4318", {}, "http://c:4318/v1/traces"),
        ("https://c/otlp/", {}, "https://c/otlp/v1/traces"),
        ("http://c:4318/v1/traces", {}, "http://c:4318/v1/traces"),
        ("http://c:4318", {BASE: "http://other"}, "http://c:4318/v1/traces"),
        (None, {BASE: "http://c:4318"}, "http://c:4318/v1/traces"),
        (None, {WHOLE: "http://c/spans", BASE: "http://other"}, "http://c/spans"),
        (None, {BASE: "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
        ("http://c", {"OTEL_TRACES_EXPORTER": "none"}, "http://c/v1/traces"),
        (None, {BASE: "http://c", PROTOCOL: "http/protobuf"}, "http://c/v1/traces"),
        (
            None,
            {BASE: "http://c", PROTOCOL: "grpc", TRACES_PROTOCOL: "http/protobuf"},
            "http://c/v1/traces",
        ),
        ("http://c", {PROTOCOL: "grpc"}, "http://c/v1/traces"),
    ],
)
def test_traces_go_where_the_option_or_else_the_standard_variables_say(
    option: str | None,
    variables: dict[str, str],
    endpoint: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert traces_endpoint(option) == endpoint


def serve(
    *arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[object, str]:
    monkeypatch.setattr(sys, "argv", ["bei", "serve", "/no/engine", *arguments])
    with pytest.raises(SystemExit) as ending:
        main()
    return ending.value.code, capsys.readouterr().err


@pytest.mark.usefixtures("_no_sdk")
def test_traces_without_their_packages_are_refused_with_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = serve("--otlp-endpoint", "http://c", capsys=capsys, monkeypatch=monkeypatch)

    assert code == 2
    assert "needs the package `opentelemetry`" in said
    assert "pip install 'beicli[otel]'" in said


@pytest.mark.usefixtures("_no_sdk")
def test_a_variable_that_a_platform_sets_keeps_no_server_from_starting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BASE, "http://c")

    assert traces_endpoint(None) is None

    said = capsys.readouterr().err
    assert f"warning: `{BASE}` is set, and no traces are sent" in said
    assert "pip install 'beicli[otel]'" in said


@pytest.mark.parametrize("protocol", [PROTOCOL, TRACES_PROTOCOL])
@pytest.mark.parametrize("address", ["http://c:4317", "c:4317"])
def test_to_a_collector_that_speaks_grpc_none_are_sent_and_that_is_said(
    protocol: str,
    address: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(BASE, address)
    monkeypatch.setenv(protocol, "grpc")

    assert traces_endpoint(None) is None

    said = capsys.readouterr().err
    assert f"warning: `{BASE}` is set, and no traces are sent" in said
    assert "gRPC" in said


@pytest.mark.parametrize("address", ["c:4318", "grpc://c:4317", "http://", "", "user:secret@c"])
def test_what_is_no_address_of_a_collector_is_refused_and_not_repeated(
    address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = serve("--otlp-endpoint", address, capsys=capsys, monkeypatch=monkeypatch)

    assert code == 2
    assert "error: `--otlp-endpoint` is not the address of a collector" in said
    assert "secret" not in said
