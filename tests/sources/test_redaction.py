from pathlib import Path

import pytest

from beicli.config.load import check_config, load_config
from beicli.config.redaction import public_repo
from beicli.config.schema import CheckpointRepository, CheckpointSource
from beicli.errors import BeiError
from beicli.sources.checkpoint import fetch_checkpoint
from beicli.sources.redaction import public_config, public_repository, redact

SECRET = "OPENSESAME"
PLACES_WITH_SECRETS = [
    f"https://bucket.s3.amazonaws.com/a.tar.gz?X-Amz-Signature={SECRET}",
    f"https://user:{SECRET}@127.0.0.1:1/a.tar.gz",
    f"s3://user:{SECRET}@bucket/path",
    f"gs://bucket/path?sig={SECRET}",
    f"az://container/path?sv=1&sig={SECRET}",
    f"user:{SECRET}@host/path",
    f"host/path?sig={SECRET}",
]
CONFIG = """
environment_variables: {HF_TOKEN: OPENSESAME, POOLING: mean}
secrets: {hf_access_token: OPENSESAME}
weights: [{source: "s3://bucket/x?sig=OPENSESAME", mount_location: /x}]
trt_llm:
  build:
    base_model: encoder_bert
    checkpoint_repository: {source: REMOTE_URL, repo: "https://host/a.tar.gz?sig=OPENSESAME"}
"""


@pytest.mark.parametrize(
    ("repo", "shown"),
    [
        ("org/model", "org/model"),
        ("./models/v1@2 (new)", "./models/v1@2 (new)"),
        ("s3://bucket/path", "s3://bucket/path"),
        ("s3://bucket/v1@2/path", "s3://bucket/v1@2/path"),
        ("https://host/a.tar.gz?sig=abc#part", "https://host/a.tar.gz"),
        ("https:/host/a.tar.gz?sig=abc", "https:/host/a.tar.gz"),
        ("https://user:password@host:8443/a.tar.gz", "https://host:8443/a.tar.gz"),
        ("https://[::1]:8443/a?sig=abc", "https://[::1]:8443/a"),
        ("https://[::1/a?sig=abc", "https://***"),
        ("https://user:pass/word@host/a", "https://***"),
        ("https://user:pass?word@host/a", "https://***"),
        ("https://user:pass#word@host/a", "https://***"),
        ("user:password@host/a", "host/a"),
        ("host/a?sig=abc", "host/a"),
    ],
)
def test_a_place_is_shown_without_its_credentials(repo: str, shown: str) -> None:
    assert public_repo(repo) == shown


@pytest.mark.parametrize("repo", PLACES_WITH_SECRETS)
@pytest.mark.parametrize("source", CheckpointSource)
def test_no_message_shows_a_secret_that_stands_in_the_wrong_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: CheckpointSource, repo: str
) -> None:
    monkeypatch.setenv("BEI_CACHE", str(tmp_path / "cache"))
    # Nothing may be asked outside this machine.
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr("beicli.sources.http_download.time.sleep", lambda _: None)
    path = tmp_path / "config.yaml"
    path.write_text(
        "trt_llm:\n  build:\n    base_model: encoder_bert\n"
        f"    checkpoint_repository: {{source: {source}, repo: '{repo}'}}\n"
    )

    problems = check_config(path).problems
    with pytest.raises(BeiError) as caught:
        fetch_checkpoint(
            CheckpointRepository(source=source, repo=repo), config_directory=tmp_path, offline=False
        )

    assert SECRET not in f"{problems}"
    assert SECRET not in f"{caught.value.message} {caught.value.hint}"


def test_a_repository_keeps_the_rest() -> None:
    repository = CheckpointRepository(
        source=CheckpointSource.REMOTE_URL, repo="https://host/a?sig=1", revision="abc"
    )

    assert public_repository(repository) == CheckpointRepository(
        source=CheckpointSource.REMOTE_URL, repo="https://host/a", revision="abc"
    )


def test_a_configuration_is_written_down_without_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)

    config = public_config(load_config(path).config)

    assert SECRET not in repr(config)
    assert config.environment_variables == {"HF_TOKEN": "***", "POOLING": "mean"}
    assert config.weights == ({"source": "s3://bucket/x", "mount_location": "/x"},)


def test_the_longest_value_is_masked_first() -> None:
    assert redact("abcdef abc", ("abc", "abcdef", "")) == "*** ***"
