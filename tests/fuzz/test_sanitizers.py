"""The sanitized build is what runs, and it notices: every access here is wrong on purpose."""
from __future__ import annotations

import pytest

from tests.fuzz import sanitized

# Runs in the middle of a packet's way: whatever reads behind the packet then, reads what is closed.
NOSY = """
from lbq import packet as pkt
from lbq._fastpath import FastDirector
from lbq.schedulers.base import Scheduler
from tests.helpers.cases import WEB, client
from tests.helpers.engines import add_service, key

content = bytearray(client().syn().packet)
end = len(content)

class Nosy(Scheduler):
    name = "nosy"

    def schedule(self, service, flow):
        print(pkt.get16(content, end - 2), flush=True)
        pkt.get16(content, end - 1)

director = FastDirector(max_connections=10)
add_service(director, WEB, "192.168.20.1:80")
director.services.service(key(WEB)).scheduler = Nosy()
director.handle(content, 0)
"""

# The receive buffer of the loop, found among what the director refers to, looked at in the middle of a batch.  The
# sanitizer keeps books by eight bytes, so what lies before a packet may be closed up to seven bytes before it only.
CLOSED = """
import ctypes, gc, mmap
from lbq._fastpath import FastDirector
from lbq.schedulers.base import Scheduler
from tests.fuzz.netlink import MESSAGE_ROOM
from tests.helpers import netlink
from tests.helpers.batches import Kernel
from tests.helpers.cases import WEB, client
from tests.helpers.engines import add_service, key

content = client().syn().packet
message = netlink.packet_message(1, content, 0, 0, 0, False)
is_closed, seen = getattr(ctypes.CDLL(None), "__asan_address_is_poisoned"), []

class Nosy(Scheduler):
    name = "nosy"

    def schedule(self, service, flow):
        [batches] = [each for each in gc.get_referents(director) if isinstance(each, list) and each
                     and type(each[0]).__name__ == "Batch"]
        for memory in gc.get_referents(batches[0]):
            if isinstance(memory, mmap.mmap) and len(memory) == 64 * MESSAGE_ROOM:
                begin = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + len(message) - len(content)
                seen.append([is_closed(ctypes.c_void_p(begin + at))
                             for at in (-5, 0, len(content) - 1, len(content), len(content) + 60)])

director = FastDirector(max_connections=10)
kernel = Kernel(director)
add_service(director, WEB, "192.168.20.1:80")
director.services.service(key(WEB)).scheduler = Nosy()
kernel.exchange([message])
print(seen)
"""


@pytest.mark.parametrize(("program", "words"), [
    ("from lbq import packet; packet.get16(bytearray(10), 11)", "heap-buffer-overflow"),
    ("from tests.fuzz.cuts import exactly\nfrom lbq import packet\n"
     "with exactly(bytes(10)) as content: packet.get16(content, 9)", "heap-buffer-overflow"),
    ("from lbq.protocols import tcp; tcp.next_state(0, 16, 12345)", "index 12367 out of bounds"),
    (NOSY, "unknown-crash on address"),     # a word that begins in the packet and ends behind it
], ids=["behind a buffer", "one byte behind a buffer", "outside a table", "behind the packet, on its way"])
def test_a_wrong_access_ends_the_program(program, words):
    ended = sanitized.run("-c", program)

    assert ended.returncode == sanitized.DIED, ended.stderr
    assert words in ended.stderr


def test_only_the_packet_itself_is_open_in_the_receive_buffer():
    ended = sanitized.run("-c", CLOSED)

    assert ended.stdout == "[[1, 0, 0, 1, 1]]\n", ended.stderr


def test_what_is_right_does_not_end_the_program():
    ended = sanitized.run("-c", "from lbq import packet; print(packet.get16(bytearray(10), 8))")

    assert (ended.returncode, ended.stdout) == (0, "0\n"), ended.stderr


def test_a_case_that_goes_wrong_fails_with_its_number():
    ended = sanitized.run("-m", "tests.fuzz.worker", "no_such_target", 3, 1, 1)

    assert ended.returncode not in (0, sanitized.DIED)
    assert "tests.fuzz.no_such_target" in ended.stderr
