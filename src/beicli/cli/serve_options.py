"""Options of `bei serve` about who may ask, how, and for how much."""

import ipaddress
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beicli.cli.api_keys import read_api_keys
from beicli.cli.console import print_warning

if TYPE_CHECKING:
    from beicli.server.options import KeyLimits, TlsFiles

_API_KEY = "BEI_API_KEY"
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@A-Z\s]+")

MaxInputCharacters = Annotated[
    int,
    typer.Option(
        envvar="BEI_MAX_INPUT_CHARACTERS", min=1, help="Characters of one text; more are refused."
    ),
]
MaxConnections = Annotated[
    int,
    typer.Option(
        envvar="BEI_MAX_CONNECTIONS", min=1, help="Open connections; others wait until one closes."
    ),
]
ApiKeys = Annotated[
    list[str] | None,
    typer.Option(
        envvar=_API_KEY,
        help="Key that requests must bring, in the variable several with blanks between; may be "
        "given again. Given here, it shows in the list of processes.",
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(envvar="BEI_API_KEY_FILE", help="File with one accepted key a line."),
]
AdminKeyFile = Annotated[
    Path | None,
    typer.Option(
        envvar="BEI_ADMIN_KEY_FILE",
        help="File with one key a line, of which a reload over HTTP wants one; without, any API "
        "key will do.",
    ),
]
MaxRequestsPerKey = Annotated[
    int | None,
    typer.Option(
        envvar="BEI_MAX_REQUESTS_PER_KEY",
        min=1,
        help="Requests that each key may have running at once; the next is told to retry.",
    ),
]
RateLimitPerKey = Annotated[
    float | None,
    typer.Option(
        envvar="BEI_RATE_LIMIT_PER_KEY",
        help="Requests a second of each key, such as 20 or 0.5; the next is told to retry.",
    ),
]
BurstPerKey = Annotated[
    int | None,
    typer.Option(
        envvar="BEI_BURST_PER_KEY",
        min=1,
        help="Requests of a key at once, after a pause, under its rate limit; left out, those of "
        "one second.",
    ),
]
TlsCertificate = Annotated[
    Path | None,
    typer.Option(
        envvar="BEI_TLS_CERTIFICATE",
        help="Certificate in PEM, then those that signed it: serves HTTPS, with HTTP/1.1 and 2.",
    ),
]
TlsKey = Annotated[
    Path | None,
    typer.Option(envvar="BEI_TLS_KEY", help="Key of the certificate in PEM, without a password."),
]
CorsOrigins = Annotated[
    list[str] | None,
    typer.Option(
        "--cors-origin",
        envvar="BEI_CORS_ORIGIN",
        help="Site whose pages may ask from a browser, such as https://app.example, or * for all; "
        "may be given again, in the variable with blanks between.",
    ),
]


def check_origins(given: Sequence[str] | None) -> tuple[str, ...]:
    """Return the origins given; raises UsageError for one that no browser sends."""
    from beicli.errors import UsageError

    for origin in given or ():
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise UsageError(
                f"`--cors-origin {origin}` is not an origin",
                hint="a browser sends scheme, host and any port in small letters, and no path: "
                "https://app.example or http://localhost:3000",
            )
    return tuple(given or ())


def check_tls_files(certificate: Path | None, key: Path | None) -> "TlsFiles | None":
    """Return what to serve HTTPS with; raises UsageError if it cannot be done with these files."""
    from beicli.errors import UsageError
    from beicli.server.options import TlsFiles
    from beicli.server.tls import make_tls_context

    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        given, missing = ("certificate", "key") if key is None else ("key", "certificate")
        raise UsageError(
            f"`--tls-{given}` is given without `--tls-{missing}`",
            hint="TLS takes both; leave both out to speak HTTP in the clear",
        )
    files = TlsFiles(certificate=certificate, key=key)
    # The server makes its own; here it would be known too late, after the engine is loaded.
    make_tls_context(files)
    return files


def collect_api_keys(given: Sequence[str] | None, file: Path | None) -> tuple[str, ...]:
    """Return the keys given, each once; an empty one is an error, as it would let everybody in."""
    from beicli.errors import UsageError

    # A variable that holds blanks alone arrives here as if it were not set.
    is_blank = not given and os.environ.get(_API_KEY)
    if is_blank or not all(key.strip() for key in given or ()):
        raise UsageError("`--api-key` is empty", hint="leave it out to let everybody in")
    keys = tuple(given or ())
    return tuple(dict.fromkeys(keys if file is None else (*keys, *read_api_keys(file))))


def make_key_limits(
    *,
    max_requests: int | None,
    requests_per_s: float | None,
    burst: int | None,
    api_keys: Sequence[str],
) -> "KeyLimits":
    """Check what the options say of each key."""
    from beicli.errors import UsageError
    from beicli.server.options import KeyLimits

    if requests_per_s is not None and not (requests_per_s > 0 and math.isfinite(requests_per_s)):
        raise UsageError(
            f"`--rate-limit-per-key {requests_per_s:g}` is no number of requests a second",
            hint="say one above 0, such as 20 or 0.5; leave it out for no limit",
        )
    if burst is not None and requests_per_s is None:
        raise UsageError(
            "`--burst-per-key` is said of a rate, and there is none",
            hint="give `--rate-limit-per-key` too",
        )
    if not api_keys and (max_requests is not None or requests_per_s is not None):
        raise UsageError(
            "there are limits for each API key, and no key",
            hint="give keys with `--api-key-file`; `--max-concurrent-requests` limits all together",
        )
    return KeyLimits(
        max_requests=max_requests,
        requests_per_s=requests_per_s,
        burst=burst or max(math.ceil(requests_per_s or 1), 1),
    )


def warn_if_open(host: str, api_keys: Sequence[str]) -> None:
    """Say so when other machines may ask, and nobody needs a key for that."""
    if api_keys or _is_loopback(host):
        return
    print_warning(
        f"whoever reaches {host or 'this machine'} may use the model: no API key is set",
        "set keys with `--api-key-file`, or let only this machine in with `--host 127.0.0.1`",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
