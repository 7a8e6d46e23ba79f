"""What an operator asks of a running server over HTTP."""

import ipaddress
from collections.abc import Awaitable, Callable, Sequence

import orjson
from starlette.requests import Request
from starlette.responses import Response

from beicli.artifact.manifest import Manifest, manifest_digest
from beicli.server.authentication import Keys, refuse_key
from beicli.server.errors import ForbiddenError
from beicli.server.options import ServerOptions

RELOAD_PATH = "/admin/reload"
# A request with one of these was passed on by a proxy, or is a web page's: who sent it is not
# who connected.
_HEARSAY = ("forwarded", "x-forwarded-for", "x-real-ip", "via", "origin")

Reload = Callable[[], Awaitable[Sequence[Manifest]]]


class AdminEndpoints:
    """Guarded by keys of their own; without those by the server's, and else this machine's."""

    def __init__(self, options: ServerOptions, reload: Reload) -> None:
        self._keys = Keys(options.admin_keys)
        self._needs_local = not (options.api_keys or options.admin_keys)
        self._reload = reload

    async def reload(self, request: Request) -> Response:
        """`POST /admin/reload`; a body is not read, so nobody can name another path."""
        if self._keys and self._keys.find(request.scope) is None:
            return refuse_key(request.scope)
        if self._needs_local and not _is_local(request):
            raise ForbiddenError(
                "without API keys only this machine may ask for that",
                hint="send SIGHUP to `bei serve`, or serve with `--admin-key-file`",
            )
        models = [
            {"id": manifest.name, "digest": manifest_digest(manifest)}
            for manifest in await self._reload()
        ]
        return Response(orjson.dumps({"models": models}), media_type="application/json")


def _is_local(request: Request) -> bool:
    """Whether whoever connected is on this machine, and asks for itself."""
    if request.client is None or any(name in request.headers for name in _HEARSAY):
        return False
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False
