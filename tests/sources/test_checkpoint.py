import socket
from pathlib import Path

import pytest
from tests.sources.fake_hub import COMMIT, NEXT_COMMIT, REPO, FakeHub, Refusal, point_client_at

from beicli.config.schema import CheckpointRepository, CheckpointSource
from beicli.errors import CheckpointError, CheckpointUnavailableError, ConfigError
from beicli.sources.checkpoint import fetch_checkpoint, look_into_checkpoint
from beicli.sources.fetched import Checkpoint, CheckpointFiles
from beicli.sources.hub_cache import look_into_cache

WANTED = {
    "config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "modules.json": b"[]",
    "1_Pooling/config.json": b'{"pooling_mode": "mean"}',
    "2_Dense/model.safetensors": b"a few weights",
    "vocab.txt": b"[PAD]",
    "model.safetensors": b"many weights",
}
UNWANTED = {
    "pytorch_model.bin": b"a pickle",
    "2_Dense/pytorch_model.bin": b"a pickle",
    "modeling_custom.py": b"import os",
    "model.pt": b"a pickle",
    "tf_model.h5": b"weights",
    "onnx/model.onnx": b"a graph",
    "onnx/config.json": b"{}",
    "openvino/openvino_model.xml": b"a graph",
    "original/consolidated.safetensors": b"the same weights again",
    "README.md": b"# words",
}


@pytest.fixture
def hub(hub: FakeHub) -> FakeHub:
    hub.commits[COMMIT] = WANTED | UNWANTED
    return hub


@pytest.fixture
def unreachable_endpoint() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def fetch(repo: str = REPO, *, offline: bool = False, **others: str | None) -> Checkpoint:
    repository = CheckpointRepository(source=CheckpointSource.HF, repo=repo, **others)
    return fetch_checkpoint(repository, config_directory=Path("/nowhere"), offline=offline)


def files_of(checkpoint: Checkpoint) -> dict[str, bytes]:
    return {
        path.relative_to(checkpoint.path).as_posix(): path.read_bytes()
        for path in checkpoint.path.rglob("*")
        if path.is_file()
    }


# -- the hub ------------------------------------------------------------------------------------


def test_what_a_build_reads_is_fetched_and_nothing_else(hub: FakeHub) -> None:
    checkpoint = fetch()

    assert files_of(checkpoint) == WANTED
    assert checkpoint.size_bytes == len(b"a few weights") + len(b"many weights")
    for name in UNWANTED:
        assert not hub.asked_for(f"resolve/{COMMIT}/{name}")


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_revision_resolves_to_its_commit(hub: FakeHub, revision: str | None) -> None:
    assert fetch(revision=revision).resolved_revision == COMMIT


def test_a_branch_that_moved_is_fetched_anew(hub: FakeHub) -> None:
    before = fetch(revision="main")
    hub.commits[NEXT_COMMIT] = WANTED | {"config.json": b'{"newer": true}'}
    hub.revisions["main"] = NEXT_COMMIT

    after = fetch(revision="main")

    assert (before.resolved_revision, after.resolved_revision) == (COMMIT, NEXT_COMMIT)
    assert files_of(after)["config.json"] == b'{"newer": true}'
    assert files_of(before)["config.json"] == b"{}"


def test_without_a_token_none_is_sent(hub: FakeHub) -> None:
    fetch()

    assert {request.authorization for request in hub.requests} == {None}


@pytest.mark.parametrize("variable", ["HF_TOKEN", "team_token", "TEAM_TOKEN"])
def test_a_token_from_the_environment_is_sent_with_every_request(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    hub.token = "hf_opensesame"
    monkeypatch.setenv(variable, hub.token)

    checkpoint = fetch(runtime_secret_name="team_token")

    assert files_of(checkpoint) == WANTED
    assert {request.authorization for request in hub.requests} == {"Bearer hf_opensesame"}


def test_the_named_secret_wins_over_hf_token(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_opensesame"
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    monkeypatch.setenv("team_token", hub.token)

    assert fetch(runtime_secret_name="team_token").resolved_revision == COMMIT


def test_a_second_fetch_offline_asks_nothing(hub: FakeHub) -> None:
    first = fetch()
    num_requests = len(hub.requests)

    assert fetch(offline=True) == first
    assert len(hub.requests) == num_requests


def test_a_filled_cache_serves_while_the_hub_cannot_be_reached(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, unreachable_endpoint: str
) -> None:
    first = fetch()
    point_client_at(unreachable_endpoint, monkeypatch)

    assert fetch() == first


def test_offline_without_a_cache_is_explained(hub: FakeHub) -> None:
    with pytest.raises(CheckpointError) as raised:
        fetch(offline=True)

    assert raised.value.message == (
        f"`{REPO}@main` is not in the local cache, and `--offline` forbids fetching it"
    )
    assert "HF_HOME" in str(raised.value.hint)
    assert hub.requests == []


def test_offline_with_half_a_cache_is_explained(hub: FakeHub) -> None:
    checkpoint = fetch()
    (checkpoint.path / "model.safetensors").unlink()

    with pytest.raises(CheckpointError, match="is not in the local cache"):
        fetch(offline=True)


def test_a_repository_that_does_not_exist_is_named(hub: FakeHub) -> None:
    with pytest.raises(CheckpointError) as raised:
        fetch("someone/else")

    assert raised.value.message == "`someone/else` is not on the hub, or needs a token to be seen"
    assert "HF_TOKEN (or `hf_access_token`)" in str(raised.value.hint)


def test_a_private_repository_asks_for_a_token_by_its_configured_name(hub: FakeHub) -> None:
    hub.token = "hf_opensesame"

    with pytest.raises(CheckpointError, match="needs a token to be seen") as raised:
        fetch(runtime_secret_name="team_token")

    assert "`team_token`" in str(raised.value.hint)


def test_a_revision_that_does_not_exist_is_named(hub: FakeHub) -> None:
    with pytest.raises(CheckpointError) as raised:
        fetch(revision="v9")

    assert raised.value.message == f"`{REPO}` has no revision `v9`"


@pytest.mark.parametrize("prefix", ["/api/", f"/{REPO}/resolve/"])
def test_a_gated_repository_is_explained(hub: FakeHub, prefix: str) -> None:
    # The hub may show what a gated repository holds and still keep the files back.
    hub.refusal = Refusal(403, {"X-Error-Code": "GatedRepo"}, prefix)

    with pytest.raises(CheckpointError, match="is gated") as raised:
        fetch()

    assert "accept its terms" in str(raised.value.hint)


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_refused_is_explained(hub: FakeHub, status: int) -> None:
    hub.refusal = Refusal(
        status, {"X-Error-Message": "Invalid credentials in Authorization header"}
    )

    with pytest.raises(CheckpointError, match=f"the hub answered {status}") as raised:
        fetch()

    assert "check the token in HF_TOKEN" in str(raised.value.hint)


def test_a_hub_in_trouble_is_not_taken_for_a_missing_network(hub: FakeHub) -> None:
    hub.refusal = Refusal(500)

    with pytest.raises(CheckpointError) as raised:
        fetch()

    assert raised.value.message == f"`{REPO}@main` could not be fetched: the hub answered 500"


def test_a_hub_that_cannot_be_reached_is_explained(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, unreachable_endpoint: str
) -> None:
    point_client_at(unreachable_endpoint, monkeypatch)

    with pytest.raises(CheckpointError) as raised:
        fetch(revision="v1")

    assert raised.value.message == (f"`{REPO}@v1` could not be fetched: the hub cannot be reached")
    assert "`--offline`" in str(raised.value.hint)


@pytest.mark.parametrize("repo", ["a/b/c", "../escape", "bad name/x", "-x/y", "https://host/a/b"])
def test_a_name_that_no_repository_can_have_is_refused_before_asking(
    hub: FakeHub, repo: str
) -> None:
    with pytest.raises(CheckpointError) as raised:
        fetch(repo)

    assert raised.value.message == f"`{repo}` is not the name of a hub repository"
    assert "source: LOCAL" in str(raised.value.hint)
    assert hub.requests == []


def test_a_token_is_taken_without_the_line_break_around_it(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_opensesame"
    monkeypatch.setenv("team_token", f"{hub.token}\n")

    assert files_of(fetch(runtime_secret_name="team_token")) == WANTED


@pytest.mark.parametrize("token", ["hf_open sesame", "hf_opensesamé", "hf_open\nsesame"])
def test_what_is_no_token_is_named_by_where_it_was_found(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("team_token", token)

    with pytest.raises(ConfigError, match=r"found in \$team_token, is no token") as raised:
        fetch(runtime_secret_name="team_token")

    assert token not in f"{raised.value.message} {raised.value.hint}"
    assert hub.requests == []


@pytest.mark.parametrize("content", [b"<html>sign in</html>", b'{"sign": "in"}', b"[]"])
def test_a_page_in_place_of_the_hub_is_told_apart(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    hub.refusal = Refusal(200, content=content)

    with pytest.raises(CheckpointUnavailableError, match="could not be fetched"):
        fetch()
    with pytest.raises(CheckpointUnavailableError):
        look()


def test_a_transfer_library_that_gives_up_is_explained(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(*_: object, **__: object) -> None:
        raise RuntimeError("Data processing error: https://cas/x?X-Amz-Signature=abcdef")

    monkeypatch.setattr("beicli.sources.hub.snapshot_download", give_up)

    with pytest.raises(CheckpointUnavailableError, match="broke off") as raised:
        fetch()

    assert "abcdef" not in raised.value.message


# -- folders ------------------------------------------------------------------------------------


def fetch_local(repo: str, config_directory: Path) -> Checkpoint:
    repository = CheckpointRepository(source=CheckpointSource.LOCAL, repo=repo)
    return fetch_checkpoint(repository, config_directory=config_directory, offline=True)


@pytest.mark.parametrize("repo", ["models/tiny", "./models/tiny", "../project/models/tiny"])
def test_a_local_path_is_relative_to_the_configuration(tmp_path: Path, repo: str) -> None:
    folder = tmp_path / "project" / "models" / "tiny"
    folder.mkdir(parents=True)

    assert fetch_local(repo, tmp_path / "project") == Checkpoint(folder, None)


def test_an_absolute_local_path_stands_for_itself(tmp_path: Path) -> None:
    assert fetch_local(str(tmp_path), Path("/nowhere")).path == tmp_path


def test_a_local_path_may_begin_with_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tiny").mkdir()

    assert fetch_local("~/tiny", Path("/nowhere")).path == tmp_path / "tiny"


def test_a_local_folder_that_does_not_exist_is_named_in_full(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as raised:
        fetch_local("tiny", tmp_path)

    assert raised.value.message == f"the checkpoint folder `{tmp_path / 'tiny'}` does not exist"
    assert "relative to the configuration file" in str(raised.value.hint)


def test_a_file_is_no_checkpoint_folder(tmp_path: Path) -> None:
    (tmp_path / "tiny.safetensors").touch()

    with pytest.raises(CheckpointError, match=r"tiny\.safetensors` is a file"):
        fetch_local("tiny.safetensors", tmp_path)


def test_a_name_that_no_folder_can_have_is_explained(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: File name too long"):
        fetch_local("x" * 300, tmp_path)


def test_the_size_of_a_checkpoint_is_that_of_its_safetensors(tmp_path: Path) -> None:
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    (tmp_path / "2_Dense" / "model.safetensors").write_bytes(b"123")
    (tmp_path / "pytorch_model.bin").write_bytes(b"1234567")

    assert fetch_local(".", tmp_path).size_bytes == 8


def test_a_checkpoint_on_the_platform_is_refused_with_the_way_around() -> None:
    repository = CheckpointRepository(
        source=CheckpointSource.BASETEN_TRAINING, repo="project", revision="job"
    )

    with pytest.raises(CheckpointError, match="lie on Baseten's platform") as raised:
        fetch_checkpoint(repository, config_directory=Path("/nowhere"), offline=False)

    assert "source: LOCAL" in str(raised.value.hint)


# -- a look at it -------------------------------------------------------------------------------


def look(*, offline: bool = False) -> CheckpointFiles:
    repository = CheckpointRepository(source=CheckpointSource.HF, repo=REPO)
    return look_into_checkpoint(repository, config_directory=Path("/nowhere"), offline=offline)


def test_a_look_at_the_hub_fetches_no_weights(hub: FakeHub) -> None:
    files = look()

    assert files.sizes == {name: len(content) for name, content in (WANTED | UNWANTED).items()}
    assert files.resolved_revision == COMMIT
    assert (files.path / "1_Pooling/config.json").read_bytes() == WANTED["1_Pooling/config.json"]
    assert not hub.asked_for("model.safetensors")


def test_a_look_offline_needs_what_was_fetched(hub: FakeHub) -> None:
    with pytest.raises(CheckpointUnavailableError, match="not in the local cache"):
        look(offline=True)
    look()
    with pytest.raises(CheckpointUnavailableError, match="no weights"):
        look(offline=True)
    fetch()
    assert look(offline=True).sizes == {name: len(content) for name, content in WANTED.items()}


def test_a_look_offline_does_not_take_some_of_the_shards_for_all(hub: FakeHub) -> None:
    index = b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    shards = {"model-1.safetensors": b"1", "model-2.safetensors": b"22"}
    hub.commits[COMMIT] = WANTED | shards | {"model.safetensors.index.json": index}
    path = fetch().path
    repository = CheckpointRepository(source=CheckpointSource.HF, repo=REPO)
    assert look_into_cache(repository)
    (path / "model-2.safetensors").unlink()

    assert look_into_cache(repository) is None


def test_weights_that_were_only_looked_at_are_not_built_offline(hub: FakeHub) -> None:
    look()

    with pytest.raises(CheckpointUnavailableError, match="not in the local cache"):
        fetch(offline=True)


def test_a_look_at_a_local_folder_reads_headers_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    (tmp_path / "config.json").write_bytes(b"{}")
    repository = CheckpointRepository(source=CheckpointSource.LOCAL, repo=str(tmp_path))

    files = look_into_checkpoint(repository, config_directory=Path(), offline=True)

    assert files.sizes == {"model.safetensors": 3, "config.json": 2}
    assert files.headers == {"model.safetensors": tmp_path / "model.safetensors"}
