import pytest

from beicli.config.schema import CheckpointRepository, CheckpointSource
from beicli.sources.redaction import public_repo, public_repository, redact


@pytest.mark.parametrize(
    ("repo", "shown"),
    [
        ("org/model", "org/model"),
        ("s3://bucket/path", "s3://bucket/path"),
        ("https://host/a.tar.gz?sig=abc#part", "https://host/a.tar.gz"),
        ("https://user:password@host:8443/a.tar.gz", "https://host:8443/a.tar.gz"),
        ("https://[::1/a?sig=abc", "https://***"),
    ],
)
def test_a_place_is_shown_without_its_credentials(repo: str, shown: str) -> None:
    assert public_repo(repo) == shown


def test_a_repository_keeps_the_rest() -> None:
    repository = CheckpointRepository(
        source=CheckpointSource.REMOTE_URL, repo="https://host/a?sig=1", revision="abc"
    )

    assert public_repository(repository) == CheckpointRepository(
        source=CheckpointSource.REMOTE_URL, repo="https://host/a", revision="abc"
    )


def test_the_longest_value_is_masked_first() -> None:
    assert redact("abcdef abc", ("abc", "abcdef", "")) == "*** ***"
