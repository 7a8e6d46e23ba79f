"""From an engine directory to a listening server and back: bind, load, warm up, serve, drain.

The socket is bound first, so a taken port is known before an engine is loaded, and accepts last,
so whoever gets a connection gets an answer.
"""

import asyncio
import errno
import logging
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import closing

import hypercorn.asyncio
from hypercorn.config import Config

from beicli.artifact.directory import EngineArtifact
from beicli.engine.load import load_engine
from beicli.errors import EngineError, ServerStartError
from beicli.pipeline.pipeline import InferencePipeline, open_tokenizer
from beicli.server.app import create_app
from beicli.server.exchange import Admission
from beicli.server.metrics import ServerMetrics
from beicli.server.options import ServerOptions

logger = logging.getLogger(__name__)

# Connections the kernel keeps while the event loop is busy: a burst of as many clients as may be
# served at once finds room. The kernel lowers it to net.core.somaxconn.
BACKLOG = 2048
MAX_PORT = 65535
# Longer than the 60 s after which common load balancers drop an idle connection, so that it is
# never this side that closes one while a request is on its way.
KEEP_ALIVE_TIMEOUT_S = 75.0
# After the drain's end: time for the last answers to be written, and for a forward pass to end.
CLOSE_TIMEOUT_S = 5.0
ABORT_TIMEOUT_S = 0.5


class Lifecycle:
    """What the server tells whoever runs it, and is told: ready, stop, stop now.

    on_ready: called once with the server's URL, when requests are accepted.
    """

    def __init__(self, *, on_ready: Callable[[str], None]) -> None:
        self.on_ready = on_ready
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
    asyncio.run(serve(artifact, options, lifecycle))


async def serve(artifact: EngineArtifact, options: ServerOptions, lifecycle: Lifecycle) -> None:
    """As `run_server`, on the running event loop and without signals."""
    with closing(bind_socket(options.host, options.port)) as listener:
        metrics = ServerMetrics()
        pipeline = await _open_pipeline(artifact, options, metrics)
        try:
            await serve_pipeline(pipeline, options, lifecycle, listener=listener, metrics=metrics)
        finally:
            await _close(pipeline)


async def serve_pipeline(
    pipeline: InferencePipeline,
    options: ServerOptions,
    lifecycle: Lifecycle,
    *,
    listener: socket.socket,
    metrics: ServerMetrics | None = None,
) -> None:
    """Warm `pipeline` up and serve it on a bound socket; the caller closes the pipeline.

    metrics: those that hear of the pipeline's batches.
    """
    await _warm_up(pipeline)
    admission = Admission(options.max_concurrent_requests)
    app = create_app(pipeline, options, metrics=metrics, admission=admission)
    url = _listen(listener)

    async def wait_for_stop() -> None:
        # Hypercorn awaits this once it accepts connections.
        lifecycle.on_ready(url)
        await lifecycle.stop_requested.wait()
        admission.drain()

    config = _hypercorn_config(listener)
    server = asyncio.create_task(
        hypercorn.asyncio.serve(
            app,  # type: ignore[arg-type]  # both say ASGI, with types of their own for it
            config,
            mode="asgi",
            shutdown_trigger=wait_for_stop,
        )
    )
    deadline = asyncio.create_task(
        _enforce_deadline(server, admission, lifecycle, options.drain_timeout_s)
    )
    try:
        await asyncio.wait({server})
        if not server.cancelled():
            server.result()
    finally:
        deadline.cancel()
        server.cancel()
        await asyncio.gather(deadline, server, return_exceptions=True)


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
    listener = socket.socket(family, socket.SOCK_STREAM)
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


def _listen(listener: socket.socket) -> str:
    """Start listening and return the URL; connections wait until they are accepted."""
    host, port = listener.getsockname()[:2]
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        # Another server bound the same port at the same time and listened first.
        raise _explain_bind_error(error, host, port) from error
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _open_pipeline(
    artifact: EngineArtifact, options: ServerOptions, metrics: ServerMetrics
) -> InferencePipeline:
    """Load tokenizer and engine side by side: both spend their time outside Python."""
    tokenizer, engine = await asyncio.gather(
        asyncio.to_thread(open_tokenizer, artifact.path, artifact.manifest),
        asyncio.to_thread(load_engine, artifact, options.engine),
    )
    return InferencePipeline(artifact.manifest, tokenizer, engine, on_batch=metrics.observe_batch)


async def _warm_up(pipeline: InferencePipeline) -> None:
    try:
        await pipeline.warm_up()
    except EngineError as error:
        raise ServerStartError(
            f"the engine does not warm up: {error.message}",
            hint=error.hint or "rebuild it with `bei build`",
        ) from error


async def _close(pipeline: InferencePipeline) -> None:
    """Close the pipeline, unless a forward pass holds it up for too long."""
    # A daemon thread, unlike an executor's, does not keep the process from ending.
    thread = threading.Thread(target=pipeline.close, name="bei-close", daemon=True)
    thread.start()
    await asyncio.to_thread(thread.join, CLOSE_TIMEOUT_S)
    if thread.is_alive():
        logger.error("a forward pass did not end within %g s; leaving it", CLOSE_TIMEOUT_S)


def _hypercorn_config(listener: socket.socket) -> Config:
    config = Config()
    # Hypercorn closes what it is given: the descriptor is its own from here.
    config.bind = [f"fd://{listener.detach()}"]
    config.backlog = BACKLOG
    # It says `Running on …` and the like in its error log: only errors are wanted.
    config.errorlog = logging.getLogger("hypercorn.error")
    config.errorlog.setLevel(logging.ERROR)
    config.include_server_header = False
    config.keep_alive_timeout = KEEP_ALIVE_TIMEOUT_S
    # On HTTP/2 the limit closes a connection under the requests that are still running on it.
    config.keep_alive_max_requests = 2**62
    # Unbounded: a route that answers before it has read the body would block for ever on the
    # message that tells it of the end. Routes read as fast as bodies arrive, so nothing piles up.
    config.max_app_queue_size = 0
    # `_enforce_deadline` keeps the time; hypercorn's own limit must not come first.
    config.graceful_timeout = float("inf")
    return config


async def _enforce_deadline(
    server: "asyncio.Task[None]", admission: Admission, lifecycle: Lifecycle, drain_timeout_s: float
) -> None:
    """Once a stop is requested: wait for the running requests, then end them, then the server."""
    await lifecycle.stop_requested.wait()
    try:
        async with asyncio.timeout(drain_timeout_s):
            await lifecycle.hurried.wait()
    except TimeoutError:
        if admission.num_inside:
            logger.warning(
                "%d requests were still running after %g s", admission.num_inside, drain_timeout_s
            )
    admission.abort()
    await asyncio.wait({server}, timeout=CLOSE_TIMEOUT_S)
    # Not cancelled yet: hypercorn would go on waiting until clients have read what is in the pipe.
    _abort_connections()
    await asyncio.wait({server}, timeout=ABORT_TIMEOUT_S)
    # A connection with pipelined requests waits for its turn even when it is gone.
    server.cancel()


def _abort_connections() -> None:
    """Cut every connection of this loop; answers that clients have not read are lost."""
    # asyncio keeps no other list of a server's connections before Python 3.13.
    transports = getattr(asyncio.get_running_loop(), "_transports", {})
    for transport in list(transports.values()):
        transport.abort()
