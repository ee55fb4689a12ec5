"""Every IPv4 packet on every interface of the lab, with its frame's addresses and the kernel's time.

A packet socket that is bound to no interface sees them all; one is opened inside each namespace, so nothing runs there.
"""
from __future__ import annotations

import array
import fcntl
import socket
import struct
from typing import NamedTuple

from lbq.netlink import SO_RCVBUFFORCE

ETH_P_IP = 0x0800
ETHERNET_HEADER = 14
ARPHRD_ETHER = 1
RECEIVE_BUFFER = 8 << 20
SNAP = 65535
TIMESPEC = struct.Struct("@qq")

ETH_P_ALL = 3
SO_TIMESTAMPNS = 35             # as cmsg: SCM_TIMESTAMPNS, the same number
SIOCETHTOOL = 0x8946
ETHTOOL_STXCSUM = 0x17


class Frame(NamedTuple):
    """A packet that an interface of a machine sent or received."""

    at_ns: int              # since 1970
    machine: str
    device: str
    is_sent: bool
    for_another: bool       # not this interface's address: a switch passes it on, or has flooded it
    macs: str               # destination and source in hex, "" where the interface has none
    packet: bytes           # from the IP header on


class Capture:
    """What passes the interfaces of *machines* (namespaces by name) from now on."""

    def __init__(self, machines: dict):
        self.sockets = {name: namespace.call(_listen) for name, namespace in machines.items()}

    def stop(self) -> list[Frame]:
        """Return the packets of all machines in the order of their times, and look no longer."""
        frames = []
        for name, listener in self.sockets.items():
            with listener:
                frames += _frames(name, listener)
        self.sockets = {}
        return sorted(frames, key=lambda frame: frame.at_ns)        # stable: a machine's own order stays


def _listen() -> socket.socket:
    # All protocols, as only such a socket sees what is sent.
    listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    listener.setblocking(False)
    return listener


def _frames(machine: str, listener: socket.socket):
    """Give the IPv4 packets that wait in *listener*, but for those on loopback."""
    while True:
        try:
            frame, told, _, about = listener.recvmsg(SNAP, 128)
        except BlockingIOError:
            return
        device, protocol, kind, hardware, _ = about
        if protocol != ETH_P_IP or device == "lo" or not told:      # not told when: it was here before it was asked for
            continue
        seconds, nanoseconds = TIMESPEC.unpack(told[0][2])
        header = ETHERNET_HEADER if hardware == ARPHRD_ETHER else 0
        yield Frame(seconds * 1_000_000_000 + nanoseconds, machine, device, kind == socket.PACKET_OUTGOING,
                    kind == socket.PACKET_OTHERHOST, frame[:header and 12].hex(), frame[header:])


def fill_in_checksums(device: str) -> None:
    """Make *device* send packets whose checksums are right; between namespaces they are left for later, for good."""
    command = array.array("I", [ETHTOOL_STXCSUM, 0])
    request = struct.pack("16sP", device.encode(), command.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, request)
