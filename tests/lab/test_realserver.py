"""``lbq realserver`` and ``lbq decap``: what they change on a real server, that it works, and that it is taken back."""
from __future__ import annotations

import json
import socket
import struct
from contextlib import contextmanager
from pathlib import Path

import pytest

from lbq.decap import KERNELS_OWN, OVER
from lbq.lab.namespace import Namespace
from lbq.lab.topology import lbq_command, this_lbq
from lbq.model import AF_INET, AF_INET6
from lbq.realserver import tunnel_is_up
from tests.helpers.namespaces import machines, picture
from tests.helpers.topology import family_of
from tests.helpers.tunnels import kinds_for_decap, last_words, start_decap

VIP, OTHER_VIP, RIP, NEIGHBOUR = "172.16.10.1", "172.16.10.2", "172.16.10.11", "172.16.10.254"
VIP6, OTHER_VIP6 = "2001:db8:10::1", "2001:db8:10::2"
VIPS = {AF_INET: VIP, AF_INET6: VIP6}
ETH_P_ARP, REQUEST, REPLY = 0x0806, 1, 2
ARP = struct.Struct("!6s6sHHHBBH6s4s6s4s")      # Ethernet header and ARP packet
BROADCAST = b"\xff" * 6
ARP_SETTINGS = {"net.ipv4.conf.all.arp_ignore": "1", "net.ipv4.conf.all.arp_announce": "2",
                "net.ipv4.conf.lo.arp_ignore": "1", "net.ipv4.conf.lo.arp_announce": "2"}


@pytest.fixture
def link(tmp_path):
    """Return a real server to be and a neighbour on its link."""
    with machines(tmp_path, "s", "n") as (server, neighbour):
        server.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", neighbour.name])
        for host, address in ((server, RIP), (neighbour, NEIGHBOUR)):
            host.run(["ip", "address", "add", f"{address}/24", "dev", "eth0"])
            host.run(["ip", "link", "set", "eth0", "up"])
        yield server, neighbour


@pytest.fixture
def server(link):
    """Return a real server to be."""
    return link[0]


def realserver(host: Namespace, *words: str) -> list[str]:
    """Return what ``lbq realserver WORDS`` says on *host*."""
    return host.run(lbq_command("realserver", *words), env=this_lbq()).stdout.splitlines()


def addresses(host: Namespace, device: str) -> list[str]:
    """Return the IPv4 addresses of *device*, with their prefix lengths."""
    [found] = json.loads(host.run(["ip", "-json", "-4", "address", "show", "dev", device]).stdout)
    return [f"{entry['local']}/{entry['prefixlen']}" for entry in found["addr_info"]]


@pytest.mark.parametrize("mode", ["dr", "tun"])
def test_all_is_there_and_all_is_taken_back(server, mode):
    for name, value in (("all.arp_ignore", 0), ("lo.arp_ignore", 8), ("all.arp_announce", 1), ("all.rp_filter", 1)):
        server.sysctl(f"net.ipv4.conf.{name}", value)
    before = picture(server)

    said = realserver(server, mode, "--vip", VIP, "--vip", OTHER_VIP)

    assert {name: server.sysctl(name) for name in ARP_SETTINGS} == ARP_SETTINGS
    assert server.sysctl("net.ipv4.conf.all.rp_filter") == ("0" if mode == "tun" else "1")
    assert addresses(server, "lo") == ["127.0.0.1/8", f"{VIP}/32", f"{OTHER_VIP}/32"]
    assert addresses(server, "eth0") == [f"{RIP}/24"]
    assert f"{VIP}/32 added to lo" in said
    if mode == "tun" and server.call(tunnel_is_up) is None:
        assert any("lbq decap" in line for line in said)
    realserver(server, mode, "--undo")
    assert picture(server) == before


@pytest.mark.parametrize("mode", ["dr", "tun"])
def test_an_ipv6_vip_needs_no_settings(server, mode):
    """Nobody answers neighbour solicitations for an address on lo; the tunnel ends in lbq decap."""
    before = picture(server)

    said = realserver(server, mode, "--vip", VIP6, "--vip", f"[{OTHER_VIP6}]")

    now = picture(server)
    assert {part for part in before if before[part] != now[part]} == {"addresses"}
    assert said == [*(["run `lbq decap --vip VIP` beside the service, it ends the tunnel whatever is in it and around "
                       "it"] if mode == "tun" else []), f"{VIP6}/128 added to lo", f"{OTHER_VIP6}/128 added to lo"]
    assert realserver(server, mode, "--undo") == [f"{VIP6}/128 removed from lo", f"{OTHER_VIP6}/128 removed from lo"]
    assert picture(server) == before


def test_once_more_changes_nothing_and_one_undo_takes_all_back(server):
    before = picture(server)
    realserver(server, "dr", "--vip", VIP)
    once = picture(server)

    said = realserver(server, "dr", "--vip", VIP)

    assert said == [f"{VIP} is an address of this host already"]
    assert picture(server) == once
    realserver(server, "tun", "--vip", OTHER_VIP)
    realserver(server, "dr", "--undo")
    assert picture(server) == before
    assert realserver(server, "dr", "--undo") == ["nothing to undo in this network namespace"]


def test_an_address_that_was_there_before_stays(server):
    server.run(["ip", "address", "add", f"{VIP}/32", "dev", "lo"])
    before = picture(server)

    realserver(server, "dr", "--vip", VIP)
    realserver(server, "dr", "--undo")

    assert picture(server) == before


def test_the_record_of_a_namespace_that_is_gone_is_not_taken_for_its_own(server):
    """The kernel gives inode numbers, which name the folder, to later namespaces."""
    folder = Path(f"/run/lbq/{server.inode}")
    realserver(server, "dr", "--vip", VIP)
    record = json.loads((folder / "realserver.json").read_text())
    realserver(server, "dr", "--undo")
    assert not folder.exists()
    folder.mkdir()
    (folder / "realserver.json").write_text(json.dumps(record | {"here": [record["here"][0], 1]}))
    server.run(["ip", "address", "add", f"{VIP}/32", "dev", "lo"])      # the user's
    before = picture(server)

    assert realserver(server, "dr", "--undo") == ["nothing to undo in this network namespace"]
    realserver(server, "dr", "--vip", VIP)
    realserver(server, "dr", "--undo")

    assert picture(server) == before


@pytest.mark.parametrize("vip", [VIP, VIP6])
def test_decap_takes_back_what_it_changed(server, vip):
    server.run(["ip", "address", "add", vip, "dev", "lo"])
    server.sysctl("net.ipv4.conf.all.rp_filter", 1)
    kinds = kinds_for_decap(server, family_of(vip))     # asking for a kernel's device may load its module
    before = picture(server)

    for kind in kinds:
        decap = start_decap(server, vip, kind)
        assert server.sysctl("net.ipv4.conf.all.rp_filter") == ("0" if vip == VIP else "1")

        assert last_words(decap) == "no packet came"
        assert decap.wait(10) == 0
        assert picture(server) == before


def give_device(host: Namespace, device: str, state: str) -> None:
    """Give *host* the *device* that its kernel would end tunnels with; where that has none, another plays it."""
    if host.call(tunnel_is_up, device) is None:
        host.run(["ip", "link", "add", device, "type", "bridge"])
    host.run(["ip", "link", "set", device, state])


@pytest.mark.parametrize(("state", "saying"), [("up", "would come twice"), ("down", "while {} is down")])
@pytest.mark.parametrize(("tunnel", "device"), KERNELS_OWN.items())
def test_decap_leaves_tunnels_to_a_kernel_that_has_them(server, tunnel, device, state, saying):
    """The kernel takes each packet, too: it delivers it or, while its device is down, answers "port unreachable".

    What comes over the other family is not its concern.
    """
    kind, outer, inner = tunnel
    if (kind, outer, inner, state) == ("ipip", AF_INET6, AF_INET, "up"):
        saying = None                       # ip6tnl0 takes nothing but IPv6 out
    over, other = sorted(OVER, key=lambda name: OVER[name] != outer)
    server.run(["ip", "address", "add", VIPS[inner], "dev", "lo"])
    give_device(server, device, state)

    for words in ((), ("--over", over)) if saying else ():
        refused = server.run(lbq_command("decap", "--vip", VIPS[inner], "--type", kind, *words), env=this_lbq(),
                             check=False)
        assert refused.returncode == 2
        [line] = refused.stderr.splitlines()
        assert saying.format(device) in line and f"--over {other}" in line
    for way in (other,) if saying else (over, other):
        assert last_words(start_decap(server, VIPS[inner], kind, over=way)) == "no packet came"


# ---- ARP -----------------------------------------------------------------------------------------------


@contextmanager
def arp_socket(host: Namespace):
    """Give a socket that sends and hears ARP on eth0 of *host*."""
    with host.inside():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP))
    with sock:
        sock.bind(("eth0", ETH_P_ARP))
        sock.settimeout(10)
        yield sock


def heard(sock, kind: int) -> tuple[str, str]:
    """Return sender and target address of the next ARP packet of this *kind*."""
    while True:
        _, _, _, _, _, _, _, operation, _, sender, _, target = ARP.unpack_from(sock.recv(100))
        if operation == kind:
            return socket.inet_ntoa(sender), socket.inet_ntoa(target)


def answers(neighbour: Namespace, address: str) -> list[tuple[str, str]]:
    """Return who answers when *neighbour* asks for *address*, before it is answered to the question for the RIP."""
    found = []
    with arp_socket(neighbour) as sock:
        mac = sock.getsockname()[4]
        for asked in (address, RIP):
            sock.send(ARP.pack(BROADCAST, mac, ETH_P_ARP, 1, 0x0800, 6, 4, REQUEST, mac, socket.inet_aton(NEIGHBOUR),
                               bytes(6), socket.inet_aton(asked)))
        while found.count((RIP, NEIGHBOUR)) < [address, RIP].count(RIP):
            found.append(heard(sock, REPLY))
    return found[:-1]


def question(server: Namespace, neighbour: Namespace) -> tuple[str, str]:
    """Return how *server*, answering from the VIP, asks for the MAC of *neighbour*."""
    server.run(["ip", "neighbour", "flush", "dev", "eth0"])
    with arp_socket(neighbour) as sock:
        with server.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((VIP, 0))
            sender.sendto(b"answer", (NEIGHBOUR, 40000))
        return heard(sock, REQUEST)


def test_a_real_server_is_silent_about_the_vip(link):
    """Without the sysctls it answers for it, and asks in its name: both would bring clients past the director."""
    server, neighbour = link
    server.run(["ip", "address", "add", f"{VIP}/32", "dev", "lo"])
    assert answers(neighbour, VIP) == [(VIP, NEIGHBOUR)]
    assert question(server, neighbour) == (VIP, NEIGHBOUR)
    server.run(["ip", "address", "del", f"{VIP}/32", "dev", "lo"])

    realserver(server, "dr", "--vip", VIP)

    assert answers(neighbour, VIP) == []
    assert answers(neighbour, RIP) == [(RIP, NEIGHBOUR)]
    assert question(server, neighbour) == (RIP, NEIGHBOUR)
