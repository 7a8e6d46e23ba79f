"""How many connections this process may have open at once, as every one of them is an open file."""

import resource

from beicli.errors import UsageError

# Besides connections a process has its libraries, pipes and an event loop open.
_OTHER_FILES = 100


def allow_connections(num_connections: int) -> None:
    """Raise the limit of open files as far as needed; processes started from here on inherit it.

    Raises `UsageError` where the system allows fewer: connections beyond it would fail one by one.
    """
    wanted = num_connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise UsageError(
            f"{num_connections:,} connections in one process need about {wanted:,} open files; "
            f"this system allows {hard:,}",
            hint="divide them with `--client-processes`, or raise the limit (`ulimit -Hn`)",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
