"""Another engine takes the place of the one that serves, and no client notices."""

import asyncio
import http.client
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2
import numpy as np
import pytest
from tests.server.fakes import (
    TIMEOUT_S,
    FakeEngine,
    make_manifest,
    make_tokenizer,
    vector,
    wait_until,
    word_ids,
)

from beicli.artifact.directory import EngineArtifact, read_manifest, seal_artifact
from beicli.artifact.golden import write_golden
from beicli.artifact.manifest import manifest_digest
from beicli.engine.batch import Batch, EngineOutput, Float32
from beicli.engine.options import EngineOptions
from beicli.errors import UnhealthyError
from beicli.model.spec import Task
from beicli.pipeline.loaded_engine import PipelineLimits
from beicli.server.front import Front, Generation
from beicli.server.lifecycle import Lifecycle
from beicli.server.metrics import ServerMetrics
from beicli.server.options import ServerOptions
from beicli.server.reload import Reloader
from beicli.server.run import serve

BODY = {"input": "w1 w2"}
NUM_CLIENTS = 4


@dataclass
class NumberedEngine(FakeEngine):
    """Its vectors tell which engine computed them."""

    number: int = 0
    num_closed: int = 0

    def forward(self, batch: Batch) -> EngineOutput:
        output = super().forward(replace(batch, input_ids=batch.input_ids + self.number))
        return EngineOutput(output.pooled, None)

    def close(self) -> None:
        super().close()
        self.num_closed += 1


def vector_of(number: int) -> Float32:
    """What the engine of that number makes of BODY."""
    return vector([token + number for token in word_ids(1, 2)])


class Engines:
    """Engine directories behind one link, and the engines that were loaded from them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "engine"
        self.loaded: list[NumberedEngine] = []
        self.num_loads = 0
        self.gate = threading.Event()
        self.gate.set()

    def make(self, number: int, task: Task = Task.EMBEDDING) -> Path:
        """Make the directory of an engine."""
        directory = self.folder / f"engine-{number}"
        (directory / "tokenizer").mkdir(parents=True)
        make_tokenizer()._tokenizer.save(str(directory / "tokenizer" / "tokenizer.json"))
        manifest = replace(make_manifest(task, has_tokens=False), name=f"engine-{number}")
        seal_artifact(directory, manifest)
        return directory

    def point_to(self, directory: Path) -> None:
        """Let the link lead to a directory, in one step."""
        link = self.folder / "link"
        link.symlink_to(directory)
        link.replace(self.path)

    def load(self, artifact: EngineArtifact, _: EngineOptions) -> NumberedEngine:
        self.num_loads += 1
        self.gate.wait(TIMEOUT_S)
        number = int(artifact.manifest.name.rpartition("-")[2])
        engine = NumberedEngine(task=artifact.manifest.model.task, number=number)
        self.loaded.append(engine)
        return engine


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engines:
    engines = Engines(tmp_path)
    monkeypatch.setattr("beicli.pipeline.loaded_engine.load_engine", engines.load)
    engines.point_to(engines.make(0))
    return engines


class ReloadableServer:
    """A server of an engine directory, in a thread."""

    def __init__(self, engines: Engines, options: ServerOptions) -> None:
        self._artifact = EngineArtifact.open(engines.path)
        self._options = options
        self._ready: Future[str] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self.url = self._ready.result(TIMEOUT_S)

    def embed(self) -> Float32:
        answer = httpx2.post(self.url + "/v1/embeddings", json=BODY, timeout=TIMEOUT_S)
        assert answer.status_code == 200, answer.text
        return np.array(answer.json()["data"][0]["embedding"], np.float32)

    def reload(self, **headers: str) -> httpx2.Response:
        return httpx2.post(self.url + "/admin/reload", headers=headers, timeout=TIMEOUT_S)

    def signal(self) -> None:
        """Ask for a reload as SIGHUP does."""
        self._loop.call_soon_threadsafe(self._lifecycle.reload_requested.set)

    def stop(self) -> bool:
        """Stop; whether the server ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._lifecycle.stop)
        self._thread.join(TIMEOUT_S)
        return not self._thread.is_alive()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lifecycle = Lifecycle(on_ready=self._ready.set_result)
        await serve([self._artifact], self._options, self._lifecycle)


@pytest.fixture
def server(engines: Engines) -> Iterator[ReloadableServer]:
    server = ReloadableServer(engines, ServerOptions(port=0))
    yield server
    engines.gate.set()
    for engine in engines.loaded:
        engine.gate.set()
    assert server.stop()
    assert [engine.num_closed for engine in engines.loaded] == [1] * len(engines.loaded)


def is_vector(found: Float32, number: int) -> bool:
    return bool(np.allclose(found, vector_of(number), atol=1e-6))


def test_no_request_fails_while_engines_are_exchanged_under_load(
    engines: Engines, server: ReloadableServer
) -> None:
    stopped = threading.Event()
    numbers: set[int] = set()

    def ask() -> int:
        """Ask until told to stop; returns how often."""
        num_asked = 0
        with httpx2.Client(timeout=TIMEOUT_S) as client:
            while not stopped.is_set():
                answer = client.post(server.url + "/v1/embeddings", json=BODY)
                assert answer.status_code == 200, answer.text
                found = np.array(answer.json()["data"][0]["embedding"], np.float32)
                numbers.update([next(n for n in range(6) if is_vector(found, n))])
                num_asked += 1
        return num_asked

    with ThreadPoolExecutor(NUM_CLIENTS) as clients:
        asking = [clients.submit(ask) for _ in range(NUM_CLIENTS)]
        try:
            for number in range(1, 6):
                engines.point_to(engines.make(number))
                answer = server.reload()
                assert answer.json()["models"][0]["id"] == f"engine-{number}"
                assert is_vector(server.embed(), number)
                time.sleep(0.1)
        finally:
            stopped.set()
        num_asked = sum(each.result(TIMEOUT_S) for each in asking)

    assert num_asked > 5 * NUM_CLIENTS
    assert numbers == {0, 1, 2, 3, 4, 5}
    wait_until(lambda: [e.num_closed for e in engines.loaded] == [1, 1, 1, 1, 1, 0])


def test_whoever_is_inside_keeps_the_engine_it_came_for(
    engines: Engines, server: ReloadableServer
) -> None:
    (old,) = engines.loaded
    old.gate.clear()
    with ThreadPoolExecutor(1) as clients:
        inside = clients.submit(server.embed)
        wait_until(lambda: 'te_request_count{method="single"} 1.0' in metrics(server))
        engines.point_to(engines.make(1))

        assert server.reload().status_code == 200
        assert is_vector(server.embed(), 1)
        assert not old.is_closed
        old.gate.set()
        assert is_vector(inside.result(TIMEOUT_S), 0)

    wait_until(lambda: old.is_closed)


def test_a_body_that_is_still_arriving_is_answered_by_the_engine_it_came_for(
    engines: Engines, server: ReloadableServer
) -> None:
    (old,) = engines.loaded
    body = json.dumps(BODY).encode()
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=TIMEOUT_S)
    connection.putrequest("POST", "/v1/embeddings")
    connection.putheader("content-type", "application/json")
    connection.putheader("content-length", str(len(body)))
    connection.endheaders(body[:5])
    # The server reads on one connection what was sent before it is asked on another, mostly.
    time.sleep(0.2)
    engines.point_to(engines.make(1))
    assert server.reload().status_code == 200

    assert not old.is_closed
    connection.send(body[5:])
    answer = connection.getresponse()

    found = json.loads(answer.read())
    assert answer.status == 200, found
    assert is_vector(np.array(found["data"][0]["embedding"], np.float32), 0)
    connection.close()
    wait_until(lambda: old.is_closed)


def metrics(server: ReloadableServer) -> str:
    return httpx2.get(server.url + "/metrics").text


def test_a_signal_reloads_and_the_log_names_both_engines(
    engines: Engines, server: ReloadableServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="beicli")
    old, new = read_manifest(engines.path), read_manifest(engines.make(1))
    engines.point_to(engines.folder / "engine-1")

    server.signal()
    wait_until(lambda: is_vector(server.embed(), 1))

    digests = [manifest_digest(manifest)[:12] for manifest in (new, old)]
    wait_until(lambda: len(caplog.records) > 0)
    assert caplog.messages == [
        f"reloaded `engine-1` ({digests[0]}), before `engine-0` ({digests[1]})"
    ]
    page = metrics(server)
    assert 'bei_reloads_total{result="success"} 1.0' in page
    assert 'bei_reloads_total{result="failure"} 0.0' in page
    assert 'model="engine-1"' in page
    assert 'model="engine-0"' not in page


def damage(directory: Path) -> None:
    (directory / "tokenizer" / "tokenizer.json").write_text("{}")


def poison(directory: Path) -> None:
    manifest = read_manifest(directory)
    # Its number makes the loader fail as nobody expects.
    seal_artifact(directory, replace(manifest, name="engine"))


def expect_other_answers(directory: Path) -> None:
    write_golden(directory / "golden.npz", ["w1 w2"], [vector_of(7)])
    seal_artifact(directory, read_manifest(directory))


def become_a_classifier(directory: Path) -> None:
    manifest = make_manifest(Task.CLASSIFICATION)
    seal_artifact(directory, replace(manifest, name="engine-1"))


def vanish(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage, "is damaged"),
        (vanish, "does not exist"),
        (poison, "ValueError"),
        (expect_other_answers, "the golden inputs come out differently"),
        (become_a_classifier, "is an embedding model, and what is there now is a classifier"),
    ],
)
def test_the_old_engine_goes_on_if_anything_is_wrong_with_the_new_one(
    engines: Engines,
    server: ReloadableServer,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], None],
    message: str,
) -> None:
    spoil(engines.make(1))
    engines.point_to(engines.folder / "engine-1")

    answer = server.reload()

    assert answer.status_code == 500
    said = answer.json()
    assert said["error"].startswith("the reload failed, and the old engine goes on serving: ")
    assert message in said["error"]
    assert said["hint"]
    assert said["error"] in caplog.messages
    assert is_vector(server.embed(), 0)
    assert 'bei_reloads_total{result="failure"} 1.0' in metrics(server)
    assert [engine.num_closed for engine in engines.loaded[1:]] == [1] * (len(engines.loaded) - 1)


def test_a_directory_that_is_exchanged_while_it_is_read_is_not_served(
    engines: Engines, server: ReloadableServer
) -> None:
    engines.point_to(engines.make(1))
    engines.gate.clear()
    with ThreadPoolExecutor(1) as clients:
        reload = clients.submit(server.reload)
        wait_until(lambda: engines.num_loads == 2)
        (engines.folder / "engine-1").rename(engines.folder / "elsewhere")
        engines.make(2).rename(engines.folder / "engine-1")
        engines.gate.set()
        answer = reload.result(TIMEOUT_S)

    assert answer.status_code == 500
    assert answer.json()["error"].endswith("engine-1` was replaced after it was verified")
    assert is_vector(server.embed(), 0)


def test_golden_answers_that_come_out_as_stored_let_the_new_engine_in(
    engines: Engines, server: ReloadableServer
) -> None:
    directory = engines.make(1)
    write_golden(directory / "golden.npz", ["w1 w2"], [vector_of(1)])
    seal_artifact(directory, read_manifest(directory))
    engines.point_to(directory)

    assert server.reload().status_code == 200


def test_one_reload_at_a_time_and_a_signal_meanwhile_is_obeyed_afterwards(
    engines: Engines, server: ReloadableServer
) -> None:
    engines.point_to(engines.make(1))
    engines.gate.clear()
    with ThreadPoolExecutor(1) as clients:
        first = clients.submit(server.reload)
        wait_until(lambda: engines.num_loads == 2)
        second = server.reload()
        engines.point_to(engines.make(2))
        server.signal()
        engines.gate.set()

        assert first.result(TIMEOUT_S).json()["models"][0]["id"] == "engine-1"
    assert (second.status_code, second.json()["error"]) == (409, "a reload is under way")
    wait_until(lambda: is_vector(server.embed(), 2))


def test_a_stop_does_not_wait_for_a_reload(engines: Engines) -> None:
    server = ReloadableServer(engines, ServerOptions(port=0))
    engines.gate.clear()
    with ThreadPoolExecutor(1) as clients:
        reload = clients.submit(server.reload)
        wait_until(lambda: engines.num_loads == 2)

        assert server.stop()
        assert reload.result(TIMEOUT_S).json()["error"] == "the server is shutting down"
    engines.gate.set()


def test_a_reload_that_a_stop_ends_has_neither_failed_nor_succeeded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def renew(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("beicli.server.reload.renew", renew)

    async def run() -> str:
        lifecycle = Lifecycle(on_ready=print)
        front = Front(ServerOptions(), ServerMetrics())
        reloading = asyncio.create_task(Reloader(front, lifecycle, []).reload())
        await asyncio.sleep(0.05)
        lifecycle.stop()
        with pytest.raises(UnhealthyError):
            await reloading
        return front.metrics.render().decode()

    page = asyncio.run(run())

    assert 'bei_reloads_total{result="failure"} 0.0' in page
    assert 'bei_reloads_total{result="success"} 0.0' in page


def test_an_old_engine_that_hangs_is_told_at_health_and_to_the_next_reload(
    engines: Engines, server: ReloadableServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Front, "_longest_inside_s", 0.0)
    monkeypatch.setattr("beicli.server.front.CLOSE_TIMEOUT_S", 0.1)
    monkeypatch.setattr("beicli.server.information.STALL_LIMIT_S", 0.1)
    (old,) = engines.loaded
    old.gate.clear()
    with ThreadPoolExecutor(1) as clients:
        inside = clients.submit(server.embed)
        wait_until(lambda: 'te_request_count{method="single"} 1.0' in metrics(server))
        engines.point_to(engines.make(1))
        assert server.reload().status_code == 200

        refused = server.reload()
        wait_until(lambda: httpx2.get(server.url + "/health").status_code == 503)

        assert refused.status_code == 500
        assert "an engine of before the last reload does not end" in refused.json()["error"]
        old.gate.set()
        assert is_vector(inside.result(TIMEOUT_S), 0)
    wait_until(lambda: old.is_closed)
    wait_until(lambda: httpx2.get(server.url + "/health").status_code == 200)


def test_a_new_engine_that_hangs_is_a_reload_that_failed(
    engines: Engines, server: ReloadableServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(engine: NumberedEngine, _: Batch) -> EngineOutput:
        engine.gate.clear()
        engine.gate.wait(TIMEOUT_S)
        raise RuntimeError

    monkeypatch.setattr("beicli.server.loading.TRIAL_LIMIT_S", 0.1)
    monkeypatch.setattr("beicli.server.loading.CLOSE_TIMEOUT_S", 0.1)
    engines.point_to(engines.make(1))
    with monkeypatch.context() as patched:
        patched.setattr(NumberedEngine, "forward", hang)
        answer = server.reload()

    assert answer.status_code == 500
    assert "the engine's first answers took over 0.1 s" in answer.json()["error"]
    assert is_vector(server.embed(), 0)
    engines.loaded[1].gate.set()
    wait_until(lambda: engines.loaded[1].num_closed == 1)


def test_an_old_engine_that_does_not_close_well_is_let_go_all_the_same(
    engines: Engines, server: ReloadableServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[Generation] = []

    def forget(generation: Generation) -> None:
        forgotten.append(generation)

    monkeypatch.setattr(Generation, "forget", forget)

    def fail(engine: NumberedEngine) -> None:
        engine.num_closed += 1
        raise RuntimeError

    engines.point_to(engines.make(1))
    with monkeypatch.context() as patched:
        patched.setattr(NumberedEngine, "close", fail)
        assert server.reload().status_code == 200
        wait_until(lambda: len(forgotten) == 1)


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "origin"])
def test_without_keys_nobody_reloads_from_elsewhere(
    engines: Engines, server: ReloadableServer, header: str
) -> None:
    answer = server.reload(**{header: "192.0.2.1"})

    assert answer.status_code == 403
    assert answer.json()["error"] == "without API keys only this machine may ask for that"
    assert len(engines.loaded) == 1


def test_with_keys_a_reload_wants_one(engines: Engines) -> None:
    server = ReloadableServer(engines, ServerOptions(port=0, api_keys=("secret",)))

    assert server.reload().status_code == 401
    assert server.reload(authorization="Bearer secret", origin="there").status_code == 200
    assert server.stop()


def test_with_keys_for_it_a_reload_wants_one_of_those(engines: Engines) -> None:
    options = ServerOptions(port=0, api_keys=("client",), admin_keys=("operator", "other"))
    server = ReloadableServer(engines, options)

    assert server.reload().status_code == 401
    assert server.reload(authorization="Bearer client").status_code == 401
    assert len(engines.loaded) == 1
    assert server.reload(authorization="Bearer other").status_code == 200
    asked = httpx2.post(
        server.url + "/v1/embeddings", json=BODY, headers={"authorization": "Bearer operator"}
    )
    assert asked.status_code == 401
    assert server.stop()


def test_what_the_cache_of_results_counted_outlasts_its_engine(engines: Engines) -> None:
    server = ReloadableServer(
        engines, ServerOptions(port=0, pipeline=PipelineLimits(result_cache_bytes=2**20))
    )
    for _ in range(3):
        server.embed()
    engines.point_to(engines.make(1))

    assert server.reload().status_code == 200
    # Results of the old engine are not those of the new one.
    assert is_vector(server.embed(), 1)

    page = metrics(server)
    assert "bei_result_cache_hits_total 2.0" in page
    assert "bei_result_cache_misses_total 2.0" in page
    assert server.stop()


def test_an_engine_that_is_replaced_by_rename_is_read_anew(
    engines: Engines, server: ReloadableServer
) -> None:
    fresh = engines.make(1)
    (engines.folder / "engine-0").rename(engines.folder / "retired")
    fresh.rename(engines.folder / "engine-0")

    server.reload()

    assert is_vector(server.embed(), 1)
    assert engines.path.readlink() == engines.folder / "engine-0"
