"""Which features of a network device are on, by the names that ``ethtool -k`` knows; the program is not needed.

Kernel: include/uapi/linux/ethtool.h (ETHTOOL_GSSET_INFO, ETHTOOL_GSTRINGS, ETHTOOL_GFEATURES)
"""
from __future__ import annotations

import array
import fcntl
import socket
import struct

SIOCETHTOOL = 0x8946
GSTRINGS, GSSET_INFO, GFEATURES = 0x1B, 0x37, 0x3A
ETH_SS_FEATURES = 4
NAME_BYTES = 32
BLOCK = struct.Struct("=IIII")      # of 32 features: available, requested, active, never changed


def active_features(device: str) -> frozenset[str]:
    """Return the names of the features of *device* that are on; none for a device that does not tell."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        try:
            told = _ask(any_socket, device, struct.pack("=IIQI", GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0))
            count = struct.unpack_from("=I", told, 16)[0]
            names = _ask(any_socket, device, struct.pack("=III", GSTRINGS, ETH_SS_FEATURES, count)
                         + bytes(count * NAME_BYTES))[12:]
            blocks = (count + 31) // 32
            bits = _ask(any_socket, device, struct.pack("=II", GFEATURES, blocks) + bytes(blocks * BLOCK.size))[8:]
        except OSError:
            return frozenset()
    active = [BLOCK.unpack_from(bits, block * BLOCK.size)[2] for block in range(blocks)]
    return frozenset(names[at * NAME_BYTES:(at + 1) * NAME_BYTES].rstrip(b"\0").decode(errors="replace")
                     for at in range(count) if active[at // 32] >> at % 32 & 1)


def _ask(any_socket: socket.socket, device: str, command: bytes) -> bytes:
    """Return what the kernel has written over *command*."""
    room = array.array("B", command)
    address, _ = room.buffer_info()
    fcntl.ioctl(any_socket, SIOCETHTOOL, struct.pack("=16sQ", device.encode(), address) + bytes(16))
    return room.tobytes()
