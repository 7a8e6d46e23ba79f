"""Runs `bei` where the kernel ends every process that turns to another machine.

    python -m tests.without_connections serve ENGINE

The kernel sees what Python does not: libraries in C++ and Rust, and whatever they start. It cannot
read the address that a socket is connected to, or that something is sent to. So a server, which has
to listen, may not connect at all, nor make a socket that sends without (UDP); anything else may not
make a socket of the internet.

Whoever is ended says on stderr where it was, also a process that was forked to send something by
the way; one that was started from a program of its own is ended without a word.
"""

import ctypes
import faulthandler
import functools
import os
import platform
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

# From the kernel's headers: prctl.h, seccomp.h, bpf_common.h and unistd.h.
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_TRAP = 0x00030000
_ALLOW = 0x7FFF0000
_LOAD = 0x20
_AND = 0x54
_JUMP_IF_EQUAL = 0x15
_RETURN = 0x06
# Where the kernel shows a filter the number of a system call, and its first two arguments.
_NUMBER, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 16, 24
# A socket's type; above it are flags.
_TYPE_MASK = 0xF
_NUMBERS = {"x86_64": {"socket": 41, "connect": 42}, "aarch64": {"socket": 198, "connect": 203}}

# What is said then.
TRACE = "most recent call first"

Instruction = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


@functools.cache
def hindrance() -> str | None:
    """Return why nothing can be forbidden on this machine; None if it can."""
    if sys.platform != "linux" or platform.machine() not in _NUMBERS:
        return "system calls of this machine are not known"
    # Containers and sandboxes may forbid it, which only a try tells; a filter stays for good.
    code = "from tests.without_connections import forbid_internet; forbid_internet()"
    repository = Path(__file__).parents[1]
    tried = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=repository
    )
    if tried.returncode == 0:
        return None
    said = tried.stderr.strip() or f"exit code {tried.returncode}"
    return f"the kernel takes no filter of system calls: {said.splitlines()[-1]}"


def forbid_connecting() -> None:
    """End this process, and any that it starts, with SIGSYS when it turns to somebody.

    That is when it connects a socket, or makes one of the internet that needs no connection.
    """
    numbers = _NUMBERS[platform.machine()]
    _install(
        [
            (_LOAD, 0, 0, _NUMBER),
            (_JUMP_IF_EQUAL, 7, 0, numbers["connect"]),
            (_JUMP_IF_EQUAL, 0, 7, numbers["socket"]),
            (_LOAD, 0, 0, _FIRST_ARGUMENT),
            (_JUMP_IF_EQUAL, 1, 0, socket.AF_INET),
            (_JUMP_IF_EQUAL, 0, 4, socket.AF_INET6),
            (_LOAD, 0, 0, _SECOND_ARGUMENT),
            (_AND, 0, 0, _TYPE_MASK),
            (_JUMP_IF_EQUAL, 1, 0, socket.SOCK_STREAM),
            (_RETURN, 0, 0, _TRAP),
            (_RETURN, 0, 0, _ALLOW),
        ]
    )


def forbid_internet() -> None:
    """End it when it makes a socket of IPv4 or IPv6; others lead nowhere but to this machine."""
    _install(
        [
            (_LOAD, 0, 0, _NUMBER),
            (_JUMP_IF_EQUAL, 0, 4, _NUMBERS[platform.machine()]["socket"]),
            (_LOAD, 0, 0, _FIRST_ARGUMENT),
            (_JUMP_IF_EQUAL, 1, 0, socket.AF_INET),
            (_JUMP_IF_EQUAL, 0, 1, socket.AF_INET6),
            (_RETURN, 0, 0, _TRAP),
            (_RETURN, 0, 0, _ALLOW),
        ]
    )


def _install(instructions: list[Instruction]) -> None:
    """Let the kernel run a filter at every system call; each jump counts from behind it."""
    faulthandler.register(signal.SIGSYS, all_threads=True, chain=True)
    packed = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    program = _Program(len(instructions), packed)
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        forbid_connecting()
    else:
        forbid_internet()
    from beicli.cli.app import main

    main()
