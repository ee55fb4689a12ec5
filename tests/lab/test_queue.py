"""What the packet process asks of the kernel's queue, of the kernel itself."""
from __future__ import annotations

import socket
import struct

from lbq import netlink
from tests.helpers.namespaces import machines


def test_a_knock_comes_in_where_packets_are_waited_for(tmp_path):
    with machines(tmp_path, "k") as (host,), host.inside(), netlink.open_queue(3, 64, 65536) as queue:
        netlink.wait_at_most(queue, 10_000)
        door = netlink.Door(queue.getsockname()[0])
        door.knock()

        assert struct.unpack_from("=IH", queue.recv(1000)) == (16, netlink.NLMSG_NOOP)

        queue.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(1000):           # more than fit: then nobody needs them
            door.knock()
        queue.close()
        door.knock()
        door.close()
