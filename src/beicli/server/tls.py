"""TLS of the server's own, for where no proxy in front of it has it."""

import ssl
from pathlib import Path

from beicli.errors import UsageError
from beicli.server.options import TlsFiles

# HTTP/2 forbids the others of TLS 1.2; all of TLS 1.3 are fine.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def make_tls_context(files: TlsFiles) -> ssl.SSLContext:
    """Load a certificate and its key; raises UsageError saying which file is at fault."""
    _check_pem(files.certificate, b" CERTIFICATE-----", "a certificate")
    _check_pem(files.key, b" PRIVATE KEY-----", "a private key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        # With no password at hand OpenSSL would ask for one on the terminal.
        context.load_cert_chain(files.certificate, files.key, password="")
    except ssl.SSLError as error:
        raise _explain(error, files) from error
    return context


def _check_pem(file: Path, mark: bytes, what: str) -> None:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"`{file}` cannot be read: {error.strerror}") from error
    if mark not in content:
        raise UsageError(
            f"`{file}` does not hold {what} in PEM",
            hint="the certificate goes to `--tls-certificate`, its key to `--tls-key`",
        )


def _explain(error: ssl.SSLError, files: TlsFiles) -> UsageError:
    if error.reason == "KEY_VALUES_MISMATCH":
        return UsageError(
            f"the key in `{files.key}` is not that of the certificate in `{files.certificate}`",
            hint="the server's own certificate comes first in its file, then those that signed it",
        )
    return UsageError(
        f"`{files.certificate}` and `{files.key}` cannot be used: {error.reason or error}",
        hint="a key with a password is not read: `openssl pkey -in KEY -out PLAIN` removes it",
    )
