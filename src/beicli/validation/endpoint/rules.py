"""What is said about a server as a whole; what is said about a contract stands beside it."""

from beicli.findings import Level, Rule

UNREACHABLE = Rule(
    name="server-unreachable", level=Level.ERROR, why="nothing can be checked where nobody answers"
)
WENT_AWAY = Rule(
    name="server-went-away",
    level=Level.ERROR,
    why="one client's request must not take the server away from all others",
)
REDIRECTS = Rule(
    name="server-redirects",
    level=Level.ERROR,
    why="clients do not send a body and a key to another address by themselves",
)
UNHEALTHY = Rule(
    name="server-unhealthy",
    level=Level.WARNING,
    why="balancers and orchestrators send traffic by `/health`",
)
NO_HEALTH = Rule(
    name="server-no-health",
    level=Level.INFO,
    why="balancers and orchestrators need another route, or a connection, to tell who is well",
)
KEY_REFUSED = Rule(
    name="server-key-refused", level=Level.ERROR, why="nothing can be checked without a valid key"
)
KEY_NOT_NEEDED = Rule(
    name="server-key-not-needed",
    level=Level.WARNING,
    why="whoever reaches the server can use it",
)
RATE_LIMITED = Rule(
    name="server-rate-limited",
    level=Level.WARNING,
    why="what could not be asked is neither kept nor broken",
)
NO_CONTRACT = Rule(
    name="server-no-contract",
    level=Level.ERROR,
    why="no client of OpenAI, TEI, Cohere, Jina or BEI can use this server",
)
CONTRACT_BROKEN = Rule(
    name="server-contract-broken",
    level=Level.ERROR,
    why="the plainest request of this contract already fails",
)
CONTRACT_MISSING = Rule(
    name="server-contract-missing",
    level=Level.ERROR,
    why="clients choose their route by the kind of model that `/info` tells",
)
CONTRACT_REFUSED = Rule(
    name="server-contract-refused",
    level=Level.INFO,
    why="the route is there, but not for this model",
)
LISTS_ONLY = Rule(
    name="server-lists-only",
    level=Level.WARNING,
    why="clients may send one text as it is, without a list around it",
)
SERVER_RULES = (
    UNREACHABLE,
    WENT_AWAY,
    REDIRECTS,
    UNHEALTHY,
    NO_HEALTH,
    KEY_REFUSED,
    KEY_NOT_NEEDED,
    RATE_LIMITED,
    NO_CONTRACT,
    CONTRACT_BROKEN,
    CONTRACT_MISSING,
    CONTRACT_REFUSED,
    LISTS_ONLY,
)
