"""Closed-loop load on an embeddings server: every client keeps one request in flight.

The client must not be what limits the rate: bodies are serialised before the clock starts,
connections stay open, and responses are read as bytes. During the warm-up every response is
checked in full; in the window base64 still is, which costs little, while of float responses every
64th is parsed and the others only pass a `QuickCheck`.

A request counts when it completed inside the window; those in flight at its end are awaited, so the
server is left idle, but they do not count.
"""

import asyncio
import io
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

import aiohttp
import orjson

from beicli.bench.measurement import Failure, Measurement, Sample
from beicli.bench.report import BenchReport, summarize
from beicli.bench.response import (
    Answer,
    InvalidResponseError,
    QuickCheck,
    error_message,
    printable_line,
    read_answer,
)
from beicli.bench.settings import BenchSettings, EncodingFormat
from beicli.bench.workload import Workload
from beicli.errors import BenchError

_FULL_CHECK_EVERY = 64
# Without a pause a server that went away would fill the samples with refused connections.
_RECONNECT_PAUSE_S = 0.1
_TICK_S = 0.5
# aiohttp warns when a body above this size is handed over as bytes, and wants a file instead.
_MAX_BYTES_BODY = 2**20
# No other text and no second try would heal these, so the first request ends the run.
_HOPELESS_KINDS = frozenset(
    {"name_not_found", "connection_refused", "connection_failed", "timeout"}
    | {"invalid_response", "status_401", "status_403", "status_404", "status_405"}
)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; told at the start of each phase and about twice a second within it."""

    phase: Literal["warm-up", "window", "last requests"]
    elapsed_s: float
    total_s: float
    num_samples: int


def run_bench(
    settings: BenchSettings,
    workload: Workload,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> BenchReport:
    """Measure one server and sum it up. Ctrl-C ends the measurement, not the report.

    Raises `BenchError` at once when the first request shows that none can succeed, and after the
    run when none did.
    """
    measurement = asyncio.run(measure(settings, workload, on_progress=on_progress))
    return summarize(measurement, settings=settings, workload=workload)


async def measure(
    settings: BenchSettings,
    workload: Workload,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Measurement:
    """Put the load on the server. Cancelling it returns what was measured so far, once."""
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    if settings.api_key:
        headers["authorization"] = f"Bearer {settings.api_key}"
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=settings.concurrency),
        timeout=aiohttp.ClientTimeout(total=settings.timeout_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
    ) as session:
        return await _Run(session, settings, workload, on_progress).measure()


class _Run:
    """The state of one measurement, owned by its event loop."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        settings: BenchSettings,
        workload: Workload,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._session = session
        self._settings = settings
        self._on_progress = on_progress
        self._bodies = [
            [_serialise(batch, settings) for batch in workload.batches_in_one_pass(client)]
            for client in range(settings.concurrency)
        ]
        self._samples: list[Sample] = []
        self._num_checked = 0
        self._quick_check: QuickCheck | None = None
        self._served_model: str | None = None
        # Both move when the first request has been answered.
        self._window_start_s = self._window_end_s = float("inf")
        self._cpu_at_start_s = 0.0
        self._cpu_at_end_s = 0.0

    async def measure(self) -> Measurement:
        clients: list[asyncio.Task[None]] = []
        is_interrupted = False
        try:
            await self._probe()
            self._window_start_s = time.perf_counter() + self._settings.warmup_s
            self._window_end_s = self._window_start_s + self._settings.duration_s
            clients = [asyncio.create_task(self._loop(bodies)) for bodies in self._bodies]
            await self._supervise(clients)
        except asyncio.CancelledError:
            # Ctrl-C arrives as a cancellation; it is answered with what there is.
            if task := asyncio.current_task():
                task.uncancel()
            is_interrupted = self._cut_window()
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
        return Measurement(
            samples=self._samples,
            window_start_s=self._window_start_s,
            window_end_s=self._window_end_s,
            client_cpu_s=self._cpu_at_end_s - self._cpu_at_start_s,
            is_interrupted=is_interrupted,
            served_model=self._served_model,
        )

    async def _probe(self) -> None:
        """Send one request, so a wrong address or key is told at once and not after the run."""
        sample = await self._send(self._bodies[0][0])
        failure = sample.failure
        if failure is not None and failure.kind in _HOPELESS_KINDS:
            raise BenchError(
                f"the first request to `{self._settings.embeddings_url}` failed: "
                f"{failure.kind}: {failure.message}",
                hint=failure.hint,
            )

    async def _loop(self, bodies: Sequence[bytes]) -> None:
        for body in itertools.cycle(bodies):
            if time.perf_counter() >= self._window_end_s:
                return
            sample = await self._send(body)
            self._samples.append(sample)
            if sample.failure is not None and sample.failure.kind.startswith("connection"):
                await asyncio.sleep(_RECONNECT_PAUSE_S)

    async def _supervise(self, clients: Sequence[asyncio.Task[None]]) -> None:
        settings = self._settings
        await self._wait("warm-up", clients, self._window_start_s, settings.warmup_s)
        self._cpu_at_start_s = time.process_time()
        await self._wait("window", clients, self._window_end_s, settings.duration_s)
        self._cpu_at_end_s = time.process_time()
        # A request gives up after its timeout, so this ends; the second more is for the pause.
        longest_s = settings.timeout_s + 1
        await self._wait("last requests", clients, time.perf_counter() + longest_s, longest_s)

    async def _wait(
        self,
        phase: Literal["warm-up", "window", "last requests"],
        clients: Sequence[asyncio.Task[None]],
        until_s: float,
        total_s: float,
    ) -> None:
        """Pass the time until `until_s` or until every client has ended; raises what one raised."""
        while (remaining_s := until_s - time.perf_counter()) > 0:
            self._on_progress(Progress(phase, total_s - remaining_s, total_s, len(self._samples)))
            done, pending = await asyncio.wait(
                clients,
                timeout=min(remaining_s, _TICK_S),
                return_when=asyncio.FIRST_EXCEPTION,
            )
            for client in done:
                client.result()
            if not pending:
                return

    def _cut_window(self) -> bool:
        """End the window now; False when it was over already."""
        now_s = time.perf_counter()
        if now_s >= self._window_end_s:
            return False
        if now_s > self._window_start_s:
            self._window_end_s = now_s
            self._cpu_at_end_s = time.process_time()
        return True

    async def _send(self, body: bytes) -> Sample:
        started_s = time.perf_counter()
        response_bytes = 0
        num_tokens = None
        failure = None
        try:
            async with self._session.post(
                self._settings.embeddings_url,
                data=body if len(body) <= _MAX_BYTES_BODY else io.BytesIO(body),
                allow_redirects=False,
            ) as response:
                content = await response.read()
            completed_s = time.perf_counter()
            response_bytes = len(content)
            if response.status == HTTPStatus.OK:
                num_tokens = self._check(content)
            else:
                failure = Failure(f"status_{response.status}", error_message(content))
        except InvalidResponseError as error:
            completed_s = time.perf_counter()
            failure = Failure("invalid_response", printable_line(str(error)))
        except (aiohttp.ClientError, TimeoutError) as error:
            completed_s = time.perf_counter()
            failure = _failure_of(error, timeout_s=self._settings.timeout_s)
        return Sample(
            completed_at_s=completed_s,
            latency_s=completed_s - started_s,
            num_tokens=num_tokens,
            request_bytes=len(body),
            response_bytes=response_bytes,
            failure=failure,
        )

    def _check(self, content: bytes) -> int | None:
        """The server's token count; raises `InvalidResponseError` unless the answer is complete."""
        self._num_checked += 1
        if self._quick_check is not None and self._may_check_quickly():
            return self._quick_check.num_tokens(content)
        answer = self._check_fully(content)
        if self._quick_check is None:
            self._quick_check = QuickCheck.learn(content)
            self._served_model = answer.model
        return answer.num_tokens

    def _may_check_quickly(self) -> bool:
        return (
            self._settings.encoding_format is EncodingFormat.FLOAT
            and time.perf_counter() >= self._window_start_s
            and self._num_checked % _FULL_CHECK_EVERY != 0
        )

    def _check_fully(self, content: bytes) -> Answer:
        return read_answer(
            content,
            num_texts=self._settings.batch_size,
            encoding_format=self._settings.encoding_format,
            dimensions=self._settings.dimensions,
        )


def _serialise(batch: Sequence[str], settings: BenchSettings) -> bytes:
    body: dict[str, object] = {"input": batch, "encoding_format": str(settings.encoding_format)}
    if settings.model is not None:
        body["model"] = settings.model
    if settings.dimensions is not None:
        body["dimensions"] = settings.dimensions
    return orjson.dumps(body)


def _failure_of(error: aiohttp.ClientError | TimeoutError, *, timeout_s: float) -> Failure:
    message = printable_line(str(error) or type(error).__name__)
    match error:
        # First, since a timeout while connecting is also a connection error.
        case TimeoutError():
            return Failure("timeout", f"no answer within {timeout_s:g} s")
        case aiohttp.ClientConnectorDNSError():
            return Failure("name_not_found", f"no address for `{error.host}`")
        case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()):
            return Failure("connection_refused", f"nothing listens at {error.host}:{error.port}")
        case aiohttp.ClientConnectorError():
            return Failure("connection_failed", printable_line(str(error.os_error)))
        case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError():
            return Failure("connection_closed", message)
        case _:
            return Failure("invalid_response", message)
