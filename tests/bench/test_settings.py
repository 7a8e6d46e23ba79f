import math

import pytest

from beicli.bench.settings import BenchSettings, EncodingFormat, Target, WorkloadKind
from beicli.errors import UsageError

URL = "http://127.0.0.1:7997"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch size must be 1 or more, got 0"),
        ({"dimensions": -2}, "dimensions must be 1 or more, got -2"),
        ({"length": 0}, "length must be 1 or more, got 0"),
        ({"max_connections": 0}, "connections must be 1 or more, got 0"),
        ({"client_processes": 0}, "client processes must be 1 or more, got 0"),
        ({"duration_s": 0.0}, "duration must be more than 0 seconds, got 0"),
        ({"duration_s": math.nan}, "duration must be more than 0 seconds, got nan"),
        ({"duration_s": math.inf}, "duration must be more than 0 seconds, got inf"),
        ({"timeout_s": -1.0}, "timeout must be more than 0 seconds, got -1"),
        ({"warmup_s": -0.5}, "warm-up must be 0 seconds or more, got -0.5"),
        ({"mix": 1.5}, "mix must be 0 to 1, got 1.5"),
        ({"mix": math.nan}, "mix must be 0 to 1, got nan"),
        ({"mix": 0.5, "length": 5}, "`--length` and `--mix` exclude each other"),
    ],
)
def test_a_senseless_value_is_refused_and_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        BenchSettings(target=Target(URL), **options)  # type: ignore[arg-type] # mixed on purpose

    assert message in caught.value.message


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:7997", "`127.0.0.1:7997` does not start with `http://`"),
        ("localhost:7997", "`localhost:7997` does not start with `http://`"),
        ("http://", "`http://` names no host"),
        ("http://h:port", "`http://h:port` is not a URL"),
        ("http://a..b", "`http://a..b` is not a URL"),
        ("http://h?model=x", "holds a query"),
    ],
)
def test_what_is_no_address_of_a_server_is_refused(url: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Target(url)

    assert message in caught.value.message


def test_no_warmup_is_allowed() -> None:
    assert BenchSettings(target=Target(URL), warmup_s=0).warmup_s == 0


@pytest.mark.parametrize(
    "options", [{"url": "http://me:s3cret@host"}, {"url": URL, "api_key": "s3cret\n"}]
)
def test_a_refused_secret_is_not_repeated_in_the_message(options: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        Target(**options)

    assert "s3cret" not in caught.value.message


def test_the_key_is_not_part_of_the_settings_as_text() -> None:
    target = Target(URL, api_key="s3cret")

    assert "s3cret" not in repr(BenchSettings(target=target, against=target))


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_root_is_found_from_the_root_or_from_an_openai_base_url(suffix: str) -> None:
    assert Target(f"https://host/prefix{suffix}").root == "https://host/prefix"


def test_an_unknown_encoding_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        EncodingFormat.parse("int8")

    assert caught.value.message == "unknown encoding format `int8`"
    assert "`base64` or `float`" in (caught.value.hint or "")


def test_an_unknown_workload_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown workload `embed`") as caught:
        WorkloadKind.parse("embed")

    assert "`predict_tokens`" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("workload", "path"),
    [
        ("embeddings", "/v1/embeddings"),
        ("rerank", "/rerank"),
        ("predict_tokens", "/predict_tokens"),
    ],
)
def test_each_workload_has_the_route_of_its_name(workload: str, path: str) -> None:
    assert WorkloadKind.parse(workload).path == path
