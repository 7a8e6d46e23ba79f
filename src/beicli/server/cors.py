"""Which pages of other sites may ask from within a browser; none, unless an operator names them."""

from collections.abc import Sequence

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware


def cors(origins: Sequence[str]) -> list[Middleware]:
    """Return what lets pages of `origins` ask; goes before the check of keys.

    A browser asks for leave without the key that it will bring. Headers are all allowed, since
    nothing here is known by a cookie.
    """
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    ]
