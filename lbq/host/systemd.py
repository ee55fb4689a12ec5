"""sd_notify: tell systemd that the director is ready, or stopping.

The protocol is one datagram to the socket that NOTIFY_SOCKET names; a library would be longer.
"""
from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Tell systemd *state*, such as ``READY=1``; return False when systemd did not start us."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(address)
            sock.sendall(state.encode())
        except OSError:
            return False        # balancing goes on whether systemd listens or not
    return True
