"""A Hugging Face hub of one repository on loopback: the routes its client uses for a snapshot."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants
from tests.loopback import listening

REPO = "someone/tiny-model"
COMMIT = "1" * 40
NEXT_COMMIT = "2" * 40


def point_client_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make huggingface_hub ask `endpoint`; it reads its environment only when it is imported."""
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    authorization: str | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer in place of the real one, to requests whose path begins with `prefix`."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    prefix: str = "/"
    content: bytes = b""


@dataclass(slots=True)
class FakeHub:
    """What the hub holds, and what was asked of it.

    commits: files of each commit. revisions: commit of each branch and tag.
    token: if set, whoever does not send it is told the repository does not exist.
    """

    commits: dict[str, dict[str, bytes]]
    revisions: dict[str, str]
    token: str | None = None
    refusal: Refusal | None = None
    requests: list[Request] = field(default_factory=list)
    endpoint: str = ""

    def asked_for(self, name: str) -> bool:
        return any(request.path.endswith(f"/{name}") for request in self.requests)

    @contextmanager
    def serving(self) -> Iterator[None]:
        with listening(_Server(self)) as self.endpoint:
            yield


class _Server(ThreadingHTTPServer):
    def __init__(self, hub: FakeHub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        authorization = self.headers.get("Authorization")
        hub.requests.append(Request(self.command, path, authorization))
        refusal = _refusal(hub, path, authorization)
        if refusal is not None:
            self._answer(refusal.status, refusal.content, refusal.headers)
            return
        match path.removeprefix("/api/models").removeprefix(f"/{REPO}/").split("/", 2):
            case ["revision", revision]:
                self._answer_revision(revision)
            case ["tree", commit]:
                entries = [_tree_entry(*item) for item in hub.commits[commit].items()]
                self._answer(200, json.dumps(entries).encode())
            case ["resolve", commit, name]:
                content = hub.commits[commit][name]
                headers = {"ETag": f'"{_blob_id(content)}"', "X-Repo-Commit": commit}
                self._answer(200, content, headers)
            case _:
                self._answer(404, b"")

    def _answer_revision(self, revision: str) -> None:
        hub = self.server.hub
        commit = hub.revisions.get(revision, revision)
        if commit in hub.commits:
            self._answer(200, json.dumps({"id": REPO, "sha": commit}).encode())
        else:
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})

    def _answer(
        self, status: int, content: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Stay silent: `requests` has it all."""


def _refusal(hub: FakeHub, path: str, authorization: str | None) -> Refusal | None:
    if hub.refusal is not None and path.startswith(hub.refusal.prefix):
        return hub.refusal
    is_known = f"/{REPO}/" in path
    if not is_known or (hub.token is not None and authorization != f"Bearer {hub.token}"):
        return Refusal(401, {"X-Error-Code": "RepoNotFound"})
    return None


def _tree_entry(name: str, content: bytes) -> dict[str, str | int]:
    return {"type": "file", "path": name, "size": len(content), "oid": _blob_id(content)}


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
