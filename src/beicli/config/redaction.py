"""What may be shown of a place: everything but its passwords and signatures.

A presigned address is a credential as a whole. Messages, manifests and the configuration that an
engine carries name it without its user, its query and its fragment.
"""

import re

MASK = "***"

# What may stand before the path of an address once its user is gone.
_HOST = re.compile(r"(?:\[[^\[\]]*\]|[^:\[\]]*)(?::\d*)?")
# `https:/host` too, which is what a path makes of an address.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/{1,2})(.*)", re.DOTALL)
# Without a scheme: a user and a password before a host, and a query with a value.
_USER = re.compile(r"[^/@\s]*:[^/@]*@")
_QUERY = re.compile(r"[?#][^/?#]*=.*", re.DOTALL)


def public_repo(repo: str) -> str:
    """Return the name of a place without user, password, query and fragment."""
    found = _SCHEME.fullmatch(repo)
    if found is None:
        return _QUERY.sub("", _USER.sub("", repo, count=1), count=1)
    scheme, rest = found[1], re.split(r"[?#]", found[2], maxsplit=1)[0]
    authority, slash, path = rest.partition("/")
    host = authority.rpartition("@")[2]
    # A password with a `/`, `?` or `#` in it looks like a host with an odd port.
    if not _HOST.fullmatch(host):
        return f"{scheme}{MASK}"
    return f"{scheme}{host}{slash}{path}"
