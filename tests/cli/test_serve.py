import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.artifact.engines import MANIFEST, build

from beicli.artifact.manifest import Manifest, Tuning
from beicli.cli.app import main
from beicli.cli.serve_options import make_key_limits, warn_if_open
from beicli.cli.serving import warn_of_another_machine
from beicli.errors import UsageError
from beicli.machine import Machine, this_machine
from beicli.server.options import KeyLimits, ServerOptions


def tuned_on(machine: Machine) -> Manifest:
    tuning = Tuning(
        machine=machine,
        num_slots=1,
        num_threads=1,
        preferred_num_tokens=512,
        tokens_per_second=1.0,
    )
    return replace(MANIFEST, tuning=tuning)


def test_an_engine_tuned_elsewhere_says_what_is_different_here(
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = this_machine()
    elsewhere = replace(here, num_cpus=here.num_cpus + 6)

    warn_of_another_machine(tuned_on(elsewhere))

    printed = capsys.readouterr()
    assert printed.out == ""
    assert (
        f"this engine was tuned on another machine: {elsewhere.num_cpus} CPUs there, "
        f"{here.num_cpus} here"
    ) in " ".join(printed.err.split())
    assert "`bei build --tune`" in printed.err


@pytest.mark.parametrize("manifest", [MANIFEST, tuned_on(this_machine())])
def test_nothing_is_said_of_an_engine_that_is_at_home(
    manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_of_another_machine(manifest)

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.7", "a-name.example"])
def test_a_server_for_other_machines_without_a_key_is_warned_of(
    host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_if_open(host, api_keys=())

    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"warning: whoever reaches {host or 'this machine'} may use the model" in printed.err
    assert "`--api-key-file`" in printed.err


@pytest.mark.parametrize(
    ("host", "api_keys"),
    [("127.0.0.1", ()), ("127.8.9.1", ()), ("::1", ()), ("localhost", ()), ("0.0.0.0", ("key",))],
)
def test_nothing_is_said_where_only_this_machine_or_a_key_gets_in(
    host: str, api_keys: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    warn_if_open(host, api_keys)

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("rate", "burst", "expected"), [(0.5, None, 1), (20, None, 20), (2.5, None, 3), (20, 7, 7)]
)
def test_a_burst_is_what_a_second_allows_unless_it_is_said(
    rate: float, burst: int | None, expected: int
) -> None:
    limits = make_key_limits(max_requests=None, requests_per_s=rate, burst=burst, api_keys=("key",))

    assert limits == KeyLimits(requests_per_s=rate, burst=expected)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(UsageError, match="is no number of requests"):
        make_key_limits(max_requests=None, requests_per_s=rate, burst=None, api_keys=("key",))


def test_a_burst_without_a_rate_is_refused() -> None:
    with pytest.raises(UsageError, match="said of a rate"):
        make_key_limits(max_requests=1, requests_per_s=None, burst=3, api_keys=("key",))


@pytest.mark.parametrize(("max_requests", "rate"), [(1, None), (None, 1.0)])
def test_limits_of_keys_want_keys(max_requests: int | None, rate: float | None) -> None:
    with pytest.raises(UsageError, match="no key"):
        make_key_limits(max_requests=max_requests, requests_per_s=rate, burst=None, api_keys=())


def test_without_options_keys_have_no_limits() -> None:
    limits = make_key_limits(max_requests=None, requests_per_s=None, burst=None, api_keys=())

    assert limits == KeyLimits()


def test_what_is_said_of_canary_and_traces_reaches_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[ServerOptions] = []
    monkeypatch.setattr(
        "beicli.server.run.run_server", lambda _, options, on_ready: given.append(options)
    )
    monkeypatch.setattr("beicli.server.access_log.configure_logging", lambda _: None)
    build(tmp_path / "engine")
    said = "--canary-interval-s 2 --canary-min-cosine 0.9 --canary-max-score-error 0.2"
    arguments = [*said.split(), "--otlp-endpoint", "http://127.0.0.1:4318"]
    monkeypatch.setattr(sys, "argv", ["bei", "serve", str(tmp_path / "engine"), *arguments])

    with pytest.raises(SystemExit) as ending:
        main()

    assert ending.value.code == 0
    # Everything else as it is when nobody says anything, on the command line as in the code.
    assert given == [
        ServerOptions(
            canary_interval_s=2,
            canary_min_cosine=0.9,
            canary_max_score_error=0.2,
            otlp_endpoint="http://127.0.0.1:4318/v1/traces",
        )
    ]
