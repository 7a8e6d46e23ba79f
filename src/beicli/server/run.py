"""From an engine directory to a listening server and back: bind, load, warm up, serve, drain.

The socket is bound first, so a taken port is known before an engine is loaded. A single process
also listens at once, and answers that it is loading; a replica only when its engine is warm, since
another one may serve meanwhile.
"""

import asyncio
import errno
import logging
import os
import resource
import socket
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing

from beicli.artifact.directory import EngineArtifact
from beicli.errors import ServerStartError
from beicli.pipeline.apart import is_working_apart
from beicli.pipeline.pipeline import InferencePipeline
from beicli.server.connections import BACKLOG, Connections
from beicli.server.exchange import Admission
from beicli.server.front import Front, model_names
from beicli.server.lifecycle import Lifecycle, ends_if_lost, unless_stopped
from beicli.server.loading import CLOSE_TIMEOUT_S
from beicli.server.options import ServerOptions
from beicli.server.reload import Reloader
from beicli.server.several_metrics import metrics_of
from beicli.server.signals import RELOAD_SIGNAL, STOP_SIGNALS, Terminal
from beicli.server.tls import make_tls_context

logger = logging.getLogger(__name__)

MAX_PORT = 65535
# Many shells allow 1,024, which is less than the requests that may be served at once.
MAX_OPEN_FILES = 65536
# For engines that are read, also during a reload, and for logs.
RESERVED_FILES = 128


def run_server(
    artifacts: Sequence[EngineArtifact],
    options: ServerOptions,
    *,
    on_ready: Callable[[str], None],
) -> None:
    """Serve `artifacts` until SIGTERM or SIGINT, and return when the last request is answered.

    SIGHUP reloads them from their paths.

    on_ready: called with the server's URL once requests are answered.
    Raises ServerStartError, or ArtifactError if this machine cannot run the engine.
    """
    terminal = Terminal()

    async def run() -> None:
        lifecycle = Lifecycle(on_ready=on_ready)

        def hang_up() -> None:
            if terminal.is_gone:
                lifecycle.stop()
            else:
                lifecycle.reload_requested.set()

        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, lifecycle.stop)
        loop.add_signal_handler(RELOAD_SIGNAL, hang_up)
        await serve(artifacts, options, lifecycle)

    allow_many_connections()
    asyncio.run(run())
    if is_working_apart():
        # An engine that loads while the interpreter takes its libraries down may crash.
        os._exit(0)


async def serve(
    artifacts: Sequence[EngineArtifact], options: ServerOptions, lifecycle: Lifecycle
) -> None:
    """As `run_server`, on the running event loop and without signals."""
    with closing(bind_socket(options.host, options.port)) as listener:
        names = model_names(options, [artifact.manifest for artifact in artifacts])
        front = Front(options, metrics_of(names), num_engines=len(names))
        reloader = Reloader(front, lifecycle, [artifact.path for artifact in artifacts])
        front.reload = reloader.reload
        obeying = asyncio.create_task(reloader.obey())
        try:
            async with ends_if_lost(front, lifecycle):
                await serve_front(
                    front,
                    lambda: front.load(artifacts, checks_answers=False),
                    lifecycle,
                    listener=listener,
                )
        finally:
            obeying.cancel()
            await front.close()


async def serve_front(
    front: Front,
    load: Callable[[], Coroutine[None, None, Sequence[InferencePipeline]]],
    lifecycle: Lifecycle,
    *,
    listener: socket.socket,
) -> None:
    """Serve on a bound socket what `load` returns, until told to stop.

    The caller closes `front`. Returns at once if told to stop while loading.
    """
    accepting: tuple[Connections, str] | None = None
    try:
        if lifecycle.turns is None:
            accepting = _accept(front, listener, lifecycle)
        pipelines = await unless_stopped(load(), lifecycle)
        if pipelines is None:
            return
        front.put(pipelines)
        connections, url = accepting = accepting or _accept(front, listener, lifecycle)
        lifecycle.on_ready(url)
        await lifecycle.stop_requested.wait()
        front.drain()
        timeout_s = front.options.drain_timeout_s
        await _drain(connections, front.admission, lifecycle, timeout_s=timeout_s)
    finally:
        if accepting is not None:
            await accepting[0].abort()


def _accept(front: Front, listener: socket.socket, lifecycle: Lifecycle) -> tuple[Connections, str]:
    """Start accepting connections; they come with the server's URL."""
    options = front.options
    tls = None if options.tls is None else make_tls_context(options.tls)
    url = _listen(listener, scheme="http" if tls is None else "https")
    max_open = connections_with_files(options.max_connections)
    connections = Connections.accept(
        front, listener, turns=lifecycle.turns, max_open=max_open, tls=tls
    )
    front.metrics.watch_connections(lambda: connections.num_open)
    return connections, url


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


def connections_with_files(wanted: int) -> int:
    """Return how many connections of those wanted this process may open files for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or wanted + RESERVED_FILES <= soft:
        return wanted
    possible = max(soft - RESERVED_FILES, 1)
    if wanted > possible:
        logger.warning(
            "at most %d connections at once, not %d: this process may open %d files; raise its "
            "limit, such as `LimitNOFILE` of systemd",
            possible,
            wanted,
            soft,
        )
    return min(wanted, possible)


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
    """Start listening and return the URL."""
    host, port = listener.getsockname()[:2]
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        # Another server bound the same port at the same time and listened first.
        raise _explain_bind_error(error, host, port) from error
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
