"""What a server as a child process needs: to end with its parent, a port, and files that only its owner can read."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import random
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from common.errors import BrokerError

FREE_PORTS = range(20_000, 32_000)

# Runs between fork and exec, as a program and not as a preexec_fn, which may deadlock in a process with threads. The
# signal comes when the thread that forked ends: that is the event loop's, without which nobody supervises the child.
_LAUNCHER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent ended first")
os.execv(sys.argv[2], sys.argv[2:])
"""


def dies_with_parent(argv: Sequence[str]) -> list[str]:
    """Return the command that runs ``argv`` and is killed when the calling thread or its process ends (Linux only)."""
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *argv]


def is_loopback(host: str) -> bool:
    """True for ``localhost`` and the addresses of the loopback interface."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def take_port(host: str, port: int) -> int:
    """Return ``port`` if it can be listened on, or a free one for 0. Raises BrokerError that says what to do."""
    if port:
        return _try_port(host, port)
    # Below the range from which the system takes ports for outgoing connections: while the server is down, a client
    # that keeps connecting to a port of that range can in the end connect to itself, and the port is gone.
    for candidate in random.Random().sample(FREE_PORTS, 50):
        with contextlib.suppress(BrokerError):
            return _try_port(host, candidate)
    return _try_port(host, 0)


def _try_port(host: str, port: int) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise BrokerError(
                f"port {port} of {host} cannot be used for the embedded broker ({exc.strerror}): stop what listens "
                f"there (ss -ltnp 'sport = :{port}' shows it), choose another port, or use that broker by broker.url"
            ) from exc
        taken: int = probe.getsockname()[1]
        return taken


def open_private(path: Path) -> IO[bytes]:
    """Open a file for appending that only its owner can read (mode 0600), whatever it was before."""
    return open(path, "ab", opener=_open_private)


def _open_private(name: str, flags: int) -> int:
    fd = os.open(name, flags, 0o600)
    os.fchmod(fd, 0o600)
    return fd
