"""From an engine directory to a listening server and back: bind, load, warm up, serve, drain.

The socket is bound first, so a taken port is known before an engine is loaded, and accepts last,
so whoever gets a connection gets an answer.
"""

import asyncio
import errno
import logging
import resource
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

from beicli.artifact.directory import EngineArtifact
from beicli.errors import EngineError, EngineLostError, ServerStartError
from beicli.pipeline.pipeline import InferencePipeline
from beicli.server.app import create_app
from beicli.server.canary import watched_by
from beicli.server.connections import BACKLOG, Connections
from beicli.server.exchange import Admission
from beicli.server.metrics import ServerMetrics
from beicli.server.options import ServerOptions
from beicli.server.replicas.turns import Turns
from beicli.server.tls import make_tls_context
from beicli.server.watchers import open_watchers

logger = logging.getLogger(__name__)

MAX_PORT = 65535
# Many shells allow 1,024, which is less than the requests that may be served at once.
MAX_OPEN_FILES = 65536
# After the drain's end: time for the last answers to be written, and for a forward pass to end.
CLOSE_TIMEOUT_S = 5.0
LOST_CHECK_INTERVAL_S = 0.5


class Lifecycle:
    """What the server tells whoever runs it, and is told: ready, stop, stop now.

    on_ready: called once with the server's URL, when requests are accepted.
    turns: with the other processes that accept from the same socket; None where there are none.
    """

    def __init__(self, *, on_ready: Callable[[str], None], turns: Turns | None = None) -> None:
        self.on_ready = on_ready
        self.turns = turns
        self.stop_requested = asyncio.Event()
        self.hurried = asyncio.Event()

    def stop(self) -> None:
        """Ask for a stop, on the event loop's thread; asked twice, running requests are ended."""
        if self.stop_requested.is_set():
            self.hurried.set()
        self.stop_requested.set()


def run_server(
    artifact: EngineArtifact, options: ServerOptions, *, on_ready: Callable[[str], None]
) -> None:
    """Serve `artifact` until SIGTERM or SIGINT, and return when the last request is answered.

    on_ready: called with the server's URL once requests are accepted.
    Raises ServerStartError, or ArtifactError if this machine cannot run the engine.
    """

    def announce(url: str) -> None:
        # Not before: until then there is nothing to drain, and a signal may end the process.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, lifecycle.stop)
        on_ready(url)

    lifecycle = Lifecycle(on_ready=announce)
    allow_many_connections()
    asyncio.run(serve(artifact, options, lifecycle))


async def serve(artifact: EngineArtifact, options: ServerOptions, lifecycle: Lifecycle) -> None:
    """As `run_server`, on the running event loop and without signals."""
    with closing(bind_socket(options.host, options.port)) as listener:
        metrics = ServerMetrics()
        # Loading the tokenizer in a thread beside the engine was tried: it saves nothing.
        pipeline = InferencePipeline.open(
            artifact,
            options=options.engine,
            on_batch=metrics.observe_batch,
            limits=options.pipeline,
        )
        try:
            async with ends_if_lost(pipeline, lifecycle):
                await serve_pipeline(
                    pipeline, options, lifecycle, listener=listener, metrics=metrics
                )
        finally:
            await close_pipeline(pipeline)


@asynccontextmanager
async def ends_if_lost(pipeline: InferencePipeline, lifecycle: Lifecycle) -> AsyncIterator[None]:
    """Stop the server that runs in the body once its engine can compute nothing more.

    Raises EngineLostError after the body if that is why it ended: whoever runs the process may
    start it anew.
    """
    async with stops_once(
        lambda: pipeline.lost is not None, lifecycle, interval_s=LOST_CHECK_INTERVAL_S
    ):
        yield
    raise_if_lost(pipeline)


@asynccontextmanager
async def stops_once(
    is_over: Callable[[], bool], lifecycle: Lifecycle, *, interval_s: float
) -> AsyncIterator[None]:
    """Stop the server that runs in the body, at once, when its engine is good for nothing more."""

    async def watch() -> None:
        while not is_over():  # noqa: ASYNC110 - it comes about in a thread, and sets no event
            await asyncio.sleep(interval_s)
        lifecycle.stop()
        # Nothing comes of waiting: with an answer of 503 now, clients may ask another replica.
        lifecycle.stop()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


def raise_if_lost(pipeline: InferencePipeline) -> None:
    """Raise EngineLostError if the engine can compute nothing more."""
    if pipeline.lost is not None:
        raise EngineLostError(pipeline.lost.message, hint=pipeline.lost.hint)


async def serve_pipeline(
    pipeline: InferencePipeline,
    options: ServerOptions,
    lifecycle: Lifecycle,
    *,
    listener: socket.socket,
    metrics: ServerMetrics | None = None,
) -> None:
    """Warm `pipeline` up and serve it on a bound socket; the caller closes the pipeline.

    metrics: those that hear of the pipeline's batches; new ones otherwise.
    """
    await _warm_up(pipeline)
    metrics = metrics or ServerMetrics()
    admission = Admission(options.max_concurrent_requests)
    tls = None if options.tls is None else make_tls_context(options.tls)
    async with open_watchers(pipeline, options) as watchers:
        app = create_app(pipeline, options, metrics=metrics, admission=admission, watchers=watchers)
        url = _listen(listener, scheme="http" if tls is None else "https")
        connections = Connections.accept(
            app, listener, turns=lifecycle.turns, max_open=options.max_connections, tls=tls
        )
        metrics.watch_connections(lambda: connections.num_open)
        try:
            lifecycle.on_ready(url)
            async with watched_by(watchers.canary):
                await lifecycle.stop_requested.wait()
            admission.drain()
            await _drain(connections, admission, lifecycle, timeout_s=options.drain_timeout_s)
        finally:
            await connections.abort()


async def _drain(
    connections: Connections, admission: Admission, lifecycle: Lifecycle, *, timeout_s: float
) -> None:
    """Wait for the running requests; end them after `timeout_s`, or at once if hurried."""
    drained = asyncio.create_task(connections.drain())
    hurried = asyncio.create_task(lifecycle.hurried.wait())
    await asyncio.wait({drained, hurried}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    if not drained.done():
        logger.warning("ending what still runs; requests: %d", admission.num_inside)
        admission.abort()
        await asyncio.wait({drained}, timeout=CLOSE_TIMEOUT_S)
    for task in (drained, hurried):
        task.cancel()


def allow_many_connections() -> None:
    """Raise the limit of open files to what the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def bind_socket(host: str, port: int) -> socket.socket:
    """Bind a TCP socket without listening yet; port 0 takes a free one.

    Raises ServerStartError saying what is wrong with the address.
    """
    if not 0 <= port <= MAX_PORT:
        # Checked here, as the resolver takes such a number modulo 65536.
        raise ServerStartError(
            f"{port} is not a port", hint=f"a port is between 1 and {MAX_PORT}; 0 takes a free one"
        )
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ServerStartError(
            f"host `{host}` is not known: {error}",
            hint="`--host 127.0.0.1` serves this machine only, `--host 0.0.0.0` every interface",
        ) from error
    # `localhost` has an IPv6 address as well, which clients of `127.0.0.1` would not reach.
    family, _, _, _, address = min(addresses, key=lambda found: found[0] != socket.AF_INET)
    # With the protocol left out asyncio does not know it for TCP and leaves Nagle's algorithm on,
    # which holds every answer back for the client's delayed acknowledgement, 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # Otherwise a restarted server waits for its predecessor's connections to be forgotten.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _explain_bind_error(error, host, port) from error
    return listener


def _explain_bind_error(error: OSError, host: str, port: int) -> ServerStartError:
    code = error.errno
    if code == errno.EADDRINUSE:
        return ServerStartError(
            f"port {port} on {host} is already in use",
            hint="stop what uses it, choose another `--port`, or let `--port 0` find a free one",
        )
    if code in {errno.EACCES, errno.EPERM}:
        return ServerStartError(
            f"this user may not listen on port {port}",
            hint="ports below 1024 take privileges: choose another, such as `--port 7997`",
        )
    if code == errno.EADDRNOTAVAIL:
        return ServerStartError(
            f"{host} is not an address of this machine",
            hint="`--host 127.0.0.1` serves this machine only, `--host 0.0.0.0` every interface",
        )
    return ServerStartError(f"cannot listen on {host} port {port}: {error}")


def _listen(listener: socket.socket, *, scheme: str) -> str:
    """Start listening and return the URL; connections wait until they are accepted."""
    host, port = listener.getsockname()[:2]
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        # Another server bound the same port at the same time and listened first.
        raise _explain_bind_error(error, host, port) from error
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def _warm_up(pipeline: InferencePipeline) -> None:
    try:
        await pipeline.warm_up()
    except EngineError as error:
        raise ServerStartError(
            f"the engine does not warm up: {error.message}",
            hint=error.hint or "rebuild it with `bei build`",
        ) from error


async def close_pipeline(pipeline: InferencePipeline) -> None:
    """Close the pipeline, unless a forward pass holds it up for too long."""
    # A daemon thread, unlike an executor's, does not keep the process from ending.
    thread = threading.Thread(target=pipeline.close, name="bei-close", daemon=True)
    thread.start()
    await asyncio.to_thread(thread.join, CLOSE_TIMEOUT_S)
    if thread.is_alive():
        logger.error("a forward pass did not end within %g s; leaving it", CLOSE_TIMEOUT_S)
