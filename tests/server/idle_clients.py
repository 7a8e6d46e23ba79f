"""`python -m tests.server.idle_clients PORT NUM`: opens connections and holds them.

A process of its own, since both ends of so many would be more files than one may open. Of four
connections three send nothing and one half a head. Says `open` when all are there, and ends with
its standard input.
"""

import resource
import socket
import sys

HALF_A_HEAD = b"POST /v1/embeddings HTTP/1.1\r\nhost: te"


def main() -> None:
    port, num_clients = map(int, sys.argv[1:])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held = []
    for number in range(num_clients):
        connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        if number % 4 == 0:
            connection.sendall(HALF_A_HEAD)
        held.append(connection)
    print("open", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
