"""The loads of the benchmark: what is sent through a column for a second, and what is read off it.

Each load returns numbers by name; ``WORKLOADS`` says which of them the table shows.  Every load is bounded in
time, and a load that carried nothing is an error, not a zero.
"""
from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lbq.bench.columns import Column, Service
from lbq.bench.machine import HERE, Tools, temporary_files_in
from lbq.bench.network import Network
from lbq.bench.usage import Usage, resident_bytes

WEB = Service("tcp", 80)
BULK = Service("tcp", 5201)
PINGPONG = Service("tcp", 7000)
SMALL = Service("udp", 9000)
FLOODED = Service("tcp", 7001, 65_536)      # more SYNs than that come in the second before it is measured

UDP_RATE = 50_000       # packets a second: what the slowest column still carries
SYN_RATE = 20_000       # SYNs a second that leave a processor time for the others
WRK_CONNECTIONS = 64
MIB = 1 << 20
FILLING = 1.2           # seconds that synflood takes besides two measurements
PATIENCE = 10           # seconds beyond the load's own before it counts as stuck

NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  keepalive_requests 1000000000;
  server {{ listen 80 backlog=8192; location / {{ default_type text/plain; return 200 "here\\n"; }} }}
}}
"""


class Failed(Exception):
    """A load broke off; the message says which and why."""


class Bench(NamedTuple):
    """Where loads run: the network, the compiled helpers, seconds a measurement."""

    network: Network
    tools: Tools
    seconds: int


def start_server(bench: Bench, service: Service) -> None:
    """Start what answers at the server's end of *service*, in place of what answered before."""
    server = bench.network.server
    server.stop_processes()
    if service == WEB:
        config = bench.network.folder / "nginx.conf"
        config.write_text(NGINX.format(folder=bench.network.folder))
        server.popen(["nginx", "-e", "stderr", "-c", config])
    elif service == BULK:
        server.popen(["iperf3", "--server", "--port", BULK.port], stdout=subprocess.DEVNULL,
                     env=temporary_files_in(bench.network.folder))
    elif service in (PINGPONG, FLOODED):
        server.popen([bench.tools.path("pingpong"), "answer", service.port]).wait_for("ready")
    else:
        server.popen([bench.tools.path("udpload"), "sink", SMALL.port, _progress(bench)]).wait_for("ready")


def _run(bench: Bench, command: list, seconds: float = 0) -> str:
    """Run a load's *command* on the client, for *seconds* if it is not a measurement long; return its output."""
    try:
        done = bench.network.client.run(command, timeout=(seconds or bench.seconds) + PATIENCE, check=False,
                                        env=temporary_files_in(bench.network.folder))
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{command[0]} was still running {PATIENCE} s after its time") from error
    if done.returncode != 0:
        raise Failed(f"{Path(command[0]).name}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def _iperf(bench: Bench, column: Column, *options: str) -> dict:
    command = ["iperf3", "--json", "--client", column.target(), "--port", BULK.port, "--time", bench.seconds]
    deadline = time.monotonic() + PATIENCE
    while True:
        usage = Usage(column.process)
        report = json.loads(_run(bench, [*command, *options]))
        usage.stop()
        # The server may still be at the end of the test before, when a slow director held that up.
        if "busy" not in report.get("error", "") or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    end = report["end"]
    received = end.get("sum_received")
    if not received:    # iperf3 exits with 0 all the same
        raise Failed(f"iperf3: {report.get('error', 'nothing was received')}")
    return {"gbit_per_second": received["bits_per_second"] / 1e9,
            "retransmits": end["sum_sent"].get("retransmits", 0),
            **usage.each(received["bytes"] / 1e6, "mbyte")}


def bulk(bench: Bench, column: Column) -> dict:
    """One TCP stream from client to server."""
    return _iperf(bench, column)


def bulk4(bench: Bench, column: Column) -> dict:
    """Four TCP streams from client to server."""
    return _iperf(bench, column, "--parallel", "4")


def download(bench: Bench, column: Column) -> dict:
    """One TCP stream from server to client."""
    return _iperf(bench, column, "--reverse")


def _wrk(bench: Bench, column: Column, *options: str) -> dict:
    usage = Usage(column.process)
    output = _run(bench, [
        "wrk", "--threads", 1, "--connections", WRK_CONNECTIONS, "--duration", f"{bench.seconds}s",
        "--timeout", "2s", "--script", HERE / "wrk.lua", *options, f"http://{column.target()}:{WEB.port}/"])
    usage.stop()
    said = json.loads(output[output.rindex("{"):])
    requests = said["requests"]
    if requests == 0:
        raise Failed(f"wrk: no request was answered: {output.strip()[-300:]}")
    return {"per_second": requests / said["seconds"], "errors": said["errors"],
            **{name: said[name] for name in ("p50_ms", "p99_ms", "p999_ms")},
            **usage.each(requests, "request")}


def connections(bench: Bench, column: Column) -> dict:
    """New TCP connections, one request each."""
    return _wrk(bench, column, "--header", "Connection: close")


def requests(bench: Bench, column: Column) -> dict:
    """Requests over 64 connections that stay open."""
    return _wrk(bench, column)


def pingpong(bench: Bench, column: Column) -> dict:
    """One TCP connection, 64 bytes there and back, one question at a time."""
    usage = Usage(column.process)
    said = json.loads(_run(bench, [
        bench.tools.path("pingpong"), "ask", column.target(), PINGPONG.port, bench.seconds]))
    usage.stop()
    return {**said, **usage.each(said["answers"], "answer")}


def _progress(bench: Bench) -> Path:
    """Return the file by which the sink tells the sender how many packets have come."""
    return bench.network.folder / "udpload"


def _udp(bench: Bench, column: Column, how: str, more: object) -> dict:
    before = _udp_arrived(bench)
    usage = Usage(column.process)
    sent = json.loads(_run(bench, [
        bench.tools.path("udpload"), how, column.target(), SMALL.port, bench.seconds, more]))
    in_time = _udp_arrived(bench) - before
    arrived = _drained(bench) - before
    usage.stop()
    if arrived == 0:
        raise Failed(f"udp: none of {sent['sent']} packets arrived")
    return {"per_second": in_time / sent["seconds"], "lost": 1 - arrived / sent["sent"],
            **usage.each(arrived, "packet")}


def _udp_arrived(bench: Bench) -> int:
    """Return how many packets have come to the server: those too many for the sink to read did come."""
    counters = bench.network.server.counters()
    return counters["UdpInDatagrams"] + counters["UdpRcvbufErrors"]


def _drained(bench: Bench) -> int:
    """Return the same once no more come: a director may have thousands in its queue."""
    deadline = time.monotonic() + PATIENCE
    arrived = -1
    while arrived != (now := _udp_arrived(bench)) and time.monotonic() < deadline:
        arrived = now
        time.sleep(0.03)
    return now


def udp_paced(bench: Bench, column: Column) -> dict:
    """64-byte UDP packets at a fixed rate."""
    return _udp(bench, column, "send", UDP_RATE)


def udp_flood(bench: Bench, column: Column) -> dict:
    """64-byte UDP packets as fast as one sender makes them."""
    return _udp(bench, column, "send", 0)


def udp_window(bench: Bench, column: Column) -> dict:
    """64-byte UDP packets, as many as get through without loss."""
    return _udp(bench, column, "window", _progress(bench))


def _syn_flood(bench: Bench, column: Column, rate: int) -> dict:
    """Start the column anew, so that its table is empty; flood it while connections that were there ask on."""
    column.stop()
    column.start(FLOODED)
    memory = resident_bytes(column.process)
    said = json.loads(_run(bench, [
        bench.tools.path("synflood"), column.target(), FLOODED.port, bench.seconds, rate,
        column.director.spoofed_network.partition("/")[0]], 2 * bench.seconds + FILLING))
    if said["syns"] == 0:
        raise Failed("synflood: no SYN was sent")
    column.check()
    return {**said, "kept": said["flood_per_second"] / said["peace_per_second"],
            **({"memory_before_mib": memory / MIB, "memory_mib": resident_bytes(column.process) / MIB}
               if column.process else {})}


def syn_flood(bench: Bench, column: Column) -> dict:
    """16 connections that ask on under SYNs from nobody, as many as one sender makes."""
    return _syn_flood(bench, column, 0)


def syn_flood_paced(bench: Bench, column: Column) -> dict:
    """The same at a fixed rate."""
    return _syn_flood(bench, column, SYN_RATE)


class Row(NamedTuple):
    """A row of the table: a *number* of a load, or how far it is from that of the column *minus*."""

    number: str
    heading: str
    digits: int
    minus: str = ""


class Workload(NamedTuple):
    """A load, the service it uses, and the rows it gives the table; the first of them is drawn, too."""

    title: str
    about: str
    measure: Callable[[Bench, Column], dict]
    service: Service
    rows: list[Row]
    programs: dict[str, str]            # what it needs: program, and its Debian package
    tool: str = ""                      # and of the C helpers


IPERF3 = {"iperf3": "iperf3"}
WEB_PROGRAMS = {"wrk": "wrk", "nginx": "nginx-light"}


def _flood_rows(title: str) -> list[Row]:
    return [Row("kept", f"{title}: what open connections keep, of 1", 2),
            Row("peace_per_second", "… answers/s in peace", 0),
            Row("flood_per_second", "… answers/s in the flood", 0),
            Row("syns_per_second", "… SYNs/s", 0), Row("memory_before_mib", "… director's memory before, MiB", 1),
            Row("memory_mib", "… after", 1)]


WORKLOADS = {
    "bulk": Workload("bulk TCP, 1 stream", "one TCP stream, client to server", bulk, BULK,
                     [Row("gbit_per_second", "bulk TCP, 1 stream, Gb/s", 2)], IPERF3),
    "bulk4": Workload("bulk TCP, 4 streams", "four of them", bulk4, BULK,
                      [Row("gbit_per_second", "bulk TCP, 4 streams, Gb/s", 2)], IPERF3),
    "download": Workload("bulk TCP, 1 stream down", "one TCP stream, server to client", download, BULK,
                         [Row("gbit_per_second", "bulk TCP, 1 stream down, Gb/s", 2)], IPERF3),
    "connections": Workload("new connections/s", "64 clients that connect, ask once and close", connections, WEB,
                            [Row("per_second", "new connections/s", 0)], WEB_PROGRAMS),
    "requests": Workload("keep-alive requests/s", "requests over 64 connections that stay open", requests, WEB,
                         [Row("per_second", "keep-alive requests/s", 0), Row("p50_ms", "… p50, ms", 2),
                          Row("p99_ms", "… p99, ms", 2), Row("p999_ms", "… p99.9, ms", 2)], WEB_PROGRAMS),
    "pingpong": Workload("TCP round trip", "64 bytes there and back over one connection: latency", pingpong, PINGPONG,
                         [Row("p50_us", "TCP round trip of 64 B: p50, µs", 1),
                          Row("p50_us", "… more than plain forwarding", 1, minus="plain")], {}, "pingpong"),
    "udp": Workload("CPU a UDP packet, paced", f"64-byte UDP packets, {UDP_RATE:,} a second", udp_paced, SMALL,
                    [Row("director_us_per_packet", f"UDP 64 B, {UDP_RATE:,}/s: director's CPU, µs a packet", 2),
                     Row("machine_us_per_packet", "… the whole machine's", 2), Row("lost", "… lost, of 1", 3)],
                    {}, "udpload"),
    "flood": Workload("CPU a UDP packet, unpaced", "64-byte UDP packets, as many as one sender makes", udp_flood, SMALL,
                      [Row("per_second", "UDP 64 B, unpaced: packets/s", 0),
                       Row("director_us_per_packet", "… director's CPU, µs a packet", 2),
                       Row("machine_us_per_packet", "… the whole machine's", 2)], {}, "udpload"),
    "window": Workload("UDP packets/s without loss", "64-byte UDP packets, 1,024 on their way at a time: no loss",
                       udp_window, SMALL,
                       [Row("per_second", "UDP 64 B, without loss: packets/s", 0),
                        Row("director_us_per_packet", "… director's CPU, µs a packet", 2),
                        Row("machine_us_per_packet", "… the whole machine's", 2), Row("lost", "… lost, of 1", 3)],
                       {}, "udpload"),
    "syn-flood": Workload("SYN flood", "SYNs from nobody, as many as one sender makes: what open connections keep",
                          syn_flood, FLOODED, _flood_rows("SYN flood"), {}, "synflood"),
    "syn-flood-paced": Workload("SYN flood, paced", f"the same, {SYN_RATE:,} SYNs a second", syn_flood_paced, FLOODED,
                                _flood_rows(f"SYN flood, {SYN_RATE:,}/s"), {}, "synflood"),
}
