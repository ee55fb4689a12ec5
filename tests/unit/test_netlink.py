"""lbq.netlink: binding a queue; the kernel's end is a socket pair's here, and the kernel itself in tests/lab."""
from __future__ import annotations

import errno
import socket
import struct

import pytest

from lbq import netlink
from lbq.errors import HostError, QueueBusy
from tests.helpers.netlink import Verdict, packet_message, verdicts


@pytest.fixture
def ends():
    """Return our end of a queue and the kernel's."""
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, kernels:
        yield ours, kernels


def acknowledgement(error: int) -> bytes:
    """Return the message with which the kernel answers a request."""
    return struct.pack("=IHHII", 36, netlink.NLMSG_ERROR, 0, 1, 0) + struct.pack("=i", -error) + bytes(16)


def test_the_queue_is_set_up_in_one_message(ends):
    ours, kernels = ends
    kernels.send(acknowledgement(0))

    netlink.configure(ours, 7, 1000)

    request = kernels.recv(1000)
    assert struct.unpack_from("=IHH", request) == (len(request), 0x302, 5)
    assert struct.unpack_from("!BBH", request, 16) == (0, 0, 7)


@pytest.mark.parametrize(("number", "error"), [(errno.EBUSY, QueueBusy), (errno.EPERM, QueueBusy),
                                               (errno.EINVAL, HostError)])
def test_a_queue_that_cannot_be_bound_is_an_error_of_one_line(ends, number, error):
    ours, kernels = ends
    kernels.send(acknowledgement(number))

    with pytest.raises(error, match=r"^cannot bind NFQUEUE 7: [^\n]*$"):
        netlink.configure(ours, 7, 1000)


def test_a_packet_queued_before_the_answer_gets_a_verdict(ends):
    ours, kernels = ends
    for packet_id in (1, 0x01020304):
        kernels.send(packet_message(packet_id, bytes(range(41)), 0, 0, 0, False))
    kernels.send(acknowledgement(0))

    netlink.configure(ours, 7, 1000)

    kernels.recv(1000)
    assert [verdicts(kernels.recv(1000)) for _ in range(2)] == [
        [Verdict(7, 1, 0, None)], [Verdict(7, 0x01020304, 0, None)]]
