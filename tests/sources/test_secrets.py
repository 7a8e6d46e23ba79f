import json
import pickle
import traceback
from pathlib import Path

import pytest

from beicli.errors import ConfigError
from beicli.sources.secrets import Secret, find_secret

VALUE = "tok-1234567890"


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("my_token", "MY_TOKEN", "BEI_SECRETS_FILE", "BEI_SECRETS_DIR"):
        monkeypatch.delenv(name, raising=False)


def secrets_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "secrets.yaml"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


@pytest.mark.parametrize("variable", ["my_token", "MY_TOKEN"])
def test_a_secret_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, VALUE)

    secret = find_secret("my_token")

    assert secret
    assert (secret.reveal(), secret.origin) == (VALUE, f"${variable}")


@pytest.mark.parametrize(
    "text", [f"my_token: {VALUE}\n", json.dumps({"my_token": VALUE}), f"my_token: '{VALUE}'\n"]
)
def test_a_secret_comes_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("BEI_SECRETS_FILE", str(secrets_file(tmp_path, text)))

    secret = find_secret("my_token")

    assert secret
    assert secret.reveal() == VALUE
    assert find_secret("another") is None


def test_a_mapping_in_the_file_is_a_json_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = secrets_file(tmp_path, "my_token:\n  account_key: abcdef\n")
    monkeypatch.setenv("BEI_SECRETS_FILE", str(path))

    secret = find_secret("my_token")

    assert secret
    assert secret.as_object() == {"account_key": "abcdef"}


def test_a_secret_comes_from_a_folder_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_token").write_text(f"{VALUE}\n", encoding="utf-8")
    (tmp_path / "my_token").chmod(0o400)
    monkeypatch.setenv("BEI_SECRETS_DIR", str(tmp_path))

    secret = find_secret("my_token")

    assert secret
    assert secret.reveal() == VALUE


@pytest.mark.parametrize("name", ["../my_token", ".my_token", "a/b", "nothing"])
def test_a_name_does_not_lead_out_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "my_token").write_text(VALUE, encoding="utf-8")
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv("BEI_SECRETS_DIR", str(tmp_path / "folder"))

    assert find_secret(name) is None


def test_a_file_that_everyone_can_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = secrets_file(tmp_path, f"my_token: {VALUE}\n", mode=0o644)
    monkeypatch.setenv("BEI_SECRETS_FILE", str(path))

    with pytest.raises(ConfigError, match="every user of this machine can read") as caught:
        find_secret("my_token")

    assert caught.value.hint == f"run `chmod 600 {path}`"


@pytest.mark.parametrize(
    "text", [f"my_token: [{VALUE}", f"{VALUE}", f"- {VALUE}", f"my_token: [{VALUE}]", "\x00"]
)
def test_a_broken_file_is_explained_without_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("BEI_SECRETS_FILE", str(secrets_file(tmp_path, text)))

    with pytest.raises(ConfigError, match=r"secrets\.yaml") as caught:
        find_secret("my_token")

    assert VALUE not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("setting", ["BEI_SECRETS_FILE", "BEI_SECRETS_DIR"])
def test_a_setting_that_leads_nowhere_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv(setting, str(tmp_path / "missing"))

    with pytest.raises(ConfigError, match="missing"):
        find_secret("my_token")


def test_a_secret_shows_itself_to_nobody() -> None:
    secret = Secret("my_token", VALUE, origin="$my_token")

    assert VALUE not in f"{secret} {secret!r} {secret.__class__}"
    with pytest.raises(TypeError, match="not written anywhere"):
        pickle.dumps(secret)


def test_a_text_is_masked_in_every_form_of_the_secret() -> None:
    value = json.dumps({"account_key": "a/b+c==xyz", "region": "eu"})
    secret = Secret("my_token", value, origin="$my_token")

    masked = secret.redact(f"key a/b+c==xyz, a%2Fb%2Bc%3D%3Dxyz, {value}; in eu")

    assert "xyz" not in masked
    assert masked.endswith("; in eu")


def test_a_value_in_the_environment_is_taken_without_the_space_around_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("my_token", "  ")
    monkeypatch.setenv("MY_TOKEN", f" {VALUE}\n")

    secret = find_secret("my_token")

    assert secret
    assert secret.reveal() == VALUE


def test_a_key_of_several_lines_is_masked_line_by_line() -> None:
    secret = Secret("key", json.dumps({"private_key": "BEGIN KEY\nabcdefgh\nEND KEY"}), origin="o")

    assert secret.redact("cannot read abcdefgh") == "cannot read ***"


def test_a_name_that_no_file_can_have_is_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEI_SECRETS_DIR", str(tmp_path))

    assert find_secret("n" * 300) is None


@pytest.mark.parametrize("is_named", [True, False])
def test_a_folder_that_may_not_be_entered_matters_only_if_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_named: bool
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    # As root may enter every folder, it is refused here.
    monkeypatch.setattr(Path, "is_file", refuse)
    monkeypatch.setattr("os.access", lambda *_: False)
    if is_named:
        monkeypatch.setenv("BEI_SECRETS_DIR", str(tmp_path))
        with pytest.raises(ConfigError, match="not a folder that this user may enter"):
            find_secret("my_token")
    else:
        assert find_secret("my_token") is None


def test_a_date_in_a_mapping_is_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = secrets_file(tmp_path, "my_token: {key: abcdefgh, expires: 2024-01-01}\n")
    monkeypatch.setenv("BEI_SECRETS_FILE", str(path))

    secret = find_secret("my_token")

    assert secret
    assert secret.as_object() == {"key": "abcdefgh", "expires": "2024-01-01"}


def test_a_mapping_that_is_no_json_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = secrets_file(tmp_path, f"my_token: {{2024-01-01: {VALUE}}}\n")
    monkeypatch.setenv("BEI_SECRETS_FILE", str(path))

    with pytest.raises(ConfigError, match="is a mapping that JSON cannot hold") as caught:
        find_secret("my_token")

    assert VALUE not in str(caught.value)
