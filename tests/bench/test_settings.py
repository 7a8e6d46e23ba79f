import math

import pytest

from beicli.bench.settings import BenchSettings, EncodingFormat
from beicli.errors import UsageError

URL = "http://127.0.0.1:7997"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "concurrency must be 1 or more, got 0"),
        ({"batch_size": 0}, "batch size must be 1 or more, got 0"),
        ({"dimensions": -2}, "dimensions must be 1 or more, got -2"),
        ({"duration_s": 0.0}, "duration must be more than 0 seconds, got 0"),
        ({"duration_s": math.nan}, "duration must be more than 0 seconds, got nan"),
        ({"duration_s": math.inf}, "duration must be more than 0 seconds, got inf"),
        ({"timeout_s": -1.0}, "timeout must be more than 0 seconds, got -1"),
        ({"warmup_s": -0.5}, "warm-up must be 0 seconds or more, got -0.5"),
        ({"url": "127.0.0.1:7997"}, "`127.0.0.1:7997` does not start with `http://`"),
        ({"url": "localhost:7997"}, "`localhost:7997` does not start with `http://`"),
        ({"url": "http://"}, "`http://` names no host"),
        ({"url": "http://h:port"}, "`http://h:port` is not a URL"),
        ({"url": "http://a..b"}, "`http://a..b` is not a URL"),
        ({"url": "http://h?model=x"}, "holds a query"),
    ],
)
def test_a_senseless_value_is_refused_and_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        BenchSettings(**({"url": URL} | options))  # type: ignore[arg-type] # mixed on purpose

    assert message in caught.value.message


def test_no_warmup_is_allowed() -> None:
    assert BenchSettings(url=URL, warmup_s=0).warmup_s == 0


@pytest.mark.parametrize(
    "options", [{"url": "http://me:s3cret@host"}, {"url": URL, "api_key": "s3cret\n"}]
)
def test_a_refused_secret_is_not_repeated_in_the_message(options: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        BenchSettings(**options)  # type: ignore[arg-type] # only text here

    assert "s3cret" not in caught.value.message


def test_the_key_is_not_part_of_the_settings_as_text() -> None:
    assert "s3cret" not in repr(BenchSettings(url=URL, api_key="s3cret"))


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_route_is_found_from_the_root_or_from_an_openai_base_url(suffix: str) -> None:
    settings = BenchSettings(url=f"https://host/prefix{suffix}")

    assert settings.embeddings_url == "https://host/prefix/v1/embeddings"


def test_an_unknown_encoding_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        EncodingFormat.parse("int8")

    assert caught.value.message == "unknown encoding format `int8`"
    assert "`base64` or `float`" in (caught.value.hint or "")
