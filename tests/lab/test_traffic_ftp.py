"""FTP through NAT with a real server (vsftpd) and a real client (curl): active and passive, up and down."""
from __future__ import annotations

import os
import shutil
from contextlib import contextmanager

import pytest

from lbq.lab.topology import Lab, host_name
from tests.helpers.dual import v6, with_ipv6
from tests.helpers.topology import FULL, curl, listing, new_lab, resets_suffered, route, tell, wait_for_listener

SIZE = (16 if FULL else 2) << 20
# vsftpd chroots where nobody may write; so its users' own files lie one deeper.
VSFTPD = """\
background=NO
anonymous_enable=YES
no_anon_password=YES
anon_root={folder}
anon_upload_enable=YES
anon_umask=022
write_enable=YES
nopriv_user=nobody
secure_chroot_dir={folder}/empty
connect_from_port_20=YES
{more}
pasv_enable=YES
ftpd_banner=this is {name}
xferlog_enable=NO
seccomp_sandbox=NO
"""
WAYS = {
    "passive": ["--disable-epsv"],
    "extended passive": ["--epsv"],
    "active": ["--ftp-port", "-", "--disable-eprt"],
    "extended active": ["--ftp-port", "-", "--eprt"],
}


@pytest.fixture(scope="module")
def network():
    """Return the article's network with an FTP server on each of its two machines."""
    with new_lab(Lab) as lab:
        with_ipv6(lab)
        for server in lab.servers:
            start_vsftpd(server)
        yield lab


def start_vsftpd(server):
    """Serve the folder ``ftp-NAME`` over IPv4 and IPv6: ``content`` to download, and ``pub`` for uploads."""
    folder = server.folder / f"ftp-{host_name(server)}"
    for name in ("", "empty", "pub"):
        (folder / name).mkdir()
    shutil.chown(folder / "pub", "ftp")        # the package's user
    (folder / "content").write_bytes(os.urandom(SIZE))
    for table, more in (("tcp", "listen=YES"),
                        ("tcp6", f"listen=NO\nlisten_ipv6=YES\nlisten_address6={v6(server.address)}")):
        config = folder.with_suffix(f".{table}")
        config.write_text(VSFTPD.format(folder=folder, name=host_name(server), more=more))
        server.popen(["vsftpd", config])
        wait_for_listener(server, 21, table=table)


@pytest.fixture
def lab(network, lend, engine):
    """Lend the network to one test, with a director of both FTP servers."""
    lab = lend(network)
    reals = [word for server in lab.servers for word in ("--real", server.address)]
    lab.start_director("--vip", f"{lab.vip}:21", "--mode", "nat", "--scheduler", "rr", "--engine", engine, *reals)
    return lab


def folder_of(server):
    return server.folder / f"ftp-{host_name(server)}"


def data_connections(lab):
    """Return (client port, VIP port, server port) of the connections that carry files."""
    return [(row["cport"], row["vport"], row["dport"]) for row in tell(lab, "connections")["connections"]
            if row["vport"] != 21]


@pytest.mark.parametrize("way", WAYS)
def test_files_arrive_intact(lab, engine, way, tmp_path):
    web01, web02 = lab.servers
    came, source, name = tmp_path / "came", tmp_path / "source", tmp_path.name
    source.write_bytes(os.urandom(SIZE))

    curl(lab.client, f"ftp://{lab.vip}/content", *WAYS[way], "--output", str(came))
    curl(lab.client, f"ftp://{lab.vip}/pub/{name}", *WAYS[way], "--upload-file", str(source))

    assert came.read_bytes() == (folder_of(web02) / "content").read_bytes()
    assert (folder_of(web01) / "pub" / name).read_bytes() == source.read_bytes()
    carried = data_connections(lab)
    assert len(carried) == 2
    if "active" in way:
        assert {(vport, dport) for _, vport, dport in carried} == {(20, 20)}
    else:
        assert all(vport == dport >= 1024 for _, vport, dport in carried)
    assert sorted(row["stats"]["conns"] for row in listing(lab)["servers"]) == [1, 1]
    assert resets_suffered(lab.client) == 0


@pytest.mark.parametrize("way", ["extended passive", "extended active"])
def test_files_arrive_intact_over_ipv6(lab, engine, way, tmp_path):
    """The service comes while the director runs: so do IPv6, and the rules for FTP's other ports."""
    web01, web02 = lab.servers
    service, name = f"[{v6(lab.vip)}]:21", tmp_path.name
    came, source = tmp_path / "came", tmp_path / "source"
    source.write_bytes(os.urandom(SIZE))
    tell(lab, "add_service", service=service, scheduler="rr")
    for server in lab.servers:
        tell(lab, "add_server", service=service, server=f"[{v6(server.address)}]")

    curl(lab.client, f"ftp://[{v6(lab.vip)}]/content", *WAYS[way], "--output", str(came))
    curl(lab.client, f"ftp://[{v6(lab.vip)}]/pub/{name}", *WAYS[way], "--upload-file", str(source))

    assert came.read_bytes() == (folder_of(web02) / "content").read_bytes()
    assert (folder_of(web01) / "pub" / name).read_bytes() == source.read_bytes()
    carried = data_connections(lab)
    assert len(carried) == 2
    if way == "extended active":
        assert {(vport, dport) for _, vport, dport in carried} == {(20, 20)}
    else:
        assert all(vport == dport >= 1024 for _, vport, dport in carried)
    assert resets_suffered(lab.client) == 0


@contextmanager
def shorter_vip(lab, server):
    """Give *server* a VIP that is said in fewer bytes than its own address."""
    vip = "10.9.9.9"
    tell(lab, "add_service", service=f"{vip}:21", scheduler="rr")
    tell(lab, "add_server", service=f"{vip}:21", server=server.address)
    with route(lab.client, vip, "via", lab.vip):
        yield vip


def test_a_vip_of_another_length_shifts_what_follows_in_the_conversation(lab, tmp_path):
    """"227 Entering Passive Mode (10,9,9,9,…" is shorter than what the server said, three times over."""
    web02 = lab.servers[1]
    files = [tmp_path / name for name in ("one", "two", "three")]

    with shorter_vip(lab, web02) as vip:
        words = [word for file in files[1:] for word in ("--output", str(file), f"ftp://{vip}/content")]
        curl(lab.client, f"ftp://{vip}/content", "--disable-epsv", *words, "--output", str(files[0]))

    assert [file.read_bytes() for file in files] == [(folder_of(web02) / "content").read_bytes()] * 3
    controls = [row for row in tell(lab, "connections")["connections"] if row["vport"] == 21]
    assert len(controls) == 1
    assert resets_suffered(lab.client) == 0


def test_what_the_client_has_lost_is_said_again_with_the_vip(lab, tmp_path):
    """What the server wrote is longer: what is too much would be the beginning of its next word."""
    web02, came = lab.servers[1], tmp_path / "came"
    first = ["-m", "string", "--algo", "bm", "--string", "227 ", "-m", "statistic", "--mode", "nth", "--every", "1000",
             "--packet", "0"]
    lab.client.run(["iptables", "-A", "INPUT", "-p", "tcp", "--sport", "21", *first, "-j", "DROP"])
    try:
        with shorter_vip(lab, web02) as vip:
            curl(lab.client, f"ftp://{vip}/content", "--disable-epsv", "--output", str(came))
    finally:
        lab.client.run(["iptables", "-F", "INPUT"])

    assert came.read_bytes() == (folder_of(web02) / "content").read_bytes()
    assert len(data_connections(lab)) == 1
