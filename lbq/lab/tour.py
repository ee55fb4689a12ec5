"""``lbq lab nat|dr|tun``: the article's examples, built, tried with ten requests, shown and taken down.

What a student sees is made here; the network is ``topology.py``, the director the real one.
"""
from __future__ import annotations

import http.client
import io
import shutil
import sys
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path

from lbq.errors import ConfigError, HostError
from lbq.lab import signals
from lbq.lab.report import page, recording
from lbq.lab.report.recording import Recording
from lbq.lab.routed import RoutedLab
from lbq.lab.topology import Lab, lbq_command, require_root, this_lbq

REQUESTS = 10
TIMEOUT = 10        # seconds; a request in the lab takes a millisecond

PICTURES = {"nat": """\
  lbq-client                       lbq-director                        lbq-web01
  192.168.10.100 ──────── VIP 192.168.10.1 │ 192.168.20.254 ────┬───── 192.168.20.1
                                                                │
                                                                │      lbq-web02
                                                                └───── 192.168.20.2
""", "dr": """\
  lbq-client                lbq-router                             lbq-director 172.16.10.10, VIP 172.16.10.1
  192.168.10.100 ────── 192.168.10.254 │ 172.16.10.254 ────┬────── lbq-web01 172.16.10.11, VIP on lo
                                                           └────── lbq-web02 172.16.10.12, VIP on lo
  requests   client → router → director → the MAC of a web server
  replies    web server → router → client
""", "tun": """\
  lbq-client                lbq-router
  192.168.10.100 ────── 192.168.10.254 │ 172.16.10.254 ─────────── lbq-director 172.16.10.10, VIP 172.16.10.1
                                       │ 10.20.1.254 ───────────── lbq-web01 10.20.1.1, VIP on lo
                                       │ 10.20.2.254 ───────────── lbq-web02 10.20.2.1, VIP on lo
  requests   client → router → director → [IPIP] → router → web server
  replies    web server → router → client
"""}
TITLES = {"nat": "NAT", "dr": "direct routing", "tun": "tunnelling"}


def main(mode: str, keep: bool, report: Path | None = None, also: tuple[str, ...] = (), bare: bool = False) -> int:
    """Give the tour, and write a *report* that has the labs *also*, too; return the exit status.

    Everything is taken down at the end, unless *keep*, whatever happened.  *bare* builds the machines, and no more.
    """
    require_root()
    if report is not None:
        _try_to_write(report)
    recorded: list[Recording] = []
    try:
        for other in also:      # before the tour, as a lab that is kept would be in the way
            _say(f"Recording the same request in the {TITLES[other]} lab ...")
            _give(other, keep=False, is_told=False, recorded=recorded)
        _give(mode, keep or bare, is_told=True, recorded=None if report is None else recorded, bare=bare)
    except signals.Interrupted as interrupted:
        return interrupted.status
    finally:
        signals.ignore()        # Python's end must not be interrupted either
    if report is not None:
        page.write(report, [recorded[-1], *recorded[:-1]])
        print(f"The report is {report}: open it in a browser.", flush=True)
    return 0


def _try_to_write(report: Path) -> None:
    """Raise before anything is built when the report could not be written."""
    is_new = not report.exists()
    try:
        with report.open("ab"):
            pass
        if is_new:
            report.unlink()         # a lab that fails leaves nothing
    except OSError as error:
        raise ConfigError(f"cannot write {report}: {error.strerror}") from error


def _give(mode: str, keep: bool, is_told: bool, recorded: list[Recording] | None, bare: bool = False) -> None:
    """Give the tour through one lab, silently unless it *is_told*; add a request to *recorded* if that is wanted."""
    lab = _lab(mode, keep=keep, bare=bare, say=lambda line: _say("  " + line))
    if taken := ", ".join(namespace.name for namespace in lab.existing()):
        raise HostError(f"cannot build the lab: network namespace {taken} exists already; "
                        f"if it is from an earlier lab, take that down with: lbq lab {mode} --down")
    signals.listen()
    is_done = False
    try:
        try:
            with redirect_stdout(sys.stdout if is_told else io.StringIO()):
                _tour(mode, lab, recorded)
            is_done = True
        finally:
            signals.note()          # nothing interrupts what comes now; before another lab a signal is heard again
    except signals.Interrupted as interrupted:
        print(f"\n{interrupted}: the lab ends here.", flush=True)
        raise
    finally:
        if bare and is_done:
            print("The machines stay up.  No director runs, and nothing is set up for one: that is yours to do.\n"
                  f"Take them down with: {own_command()} lab {mode} --down", flush=True)
        elif keep and is_done:
            _print_what_to_play_with(mode, lab)
        else:
            with redirect_stdout(sys.stdout if is_told else io.StringIO()):
                _take_down(lab)


def take_down(mode: str) -> int:
    """End a lab that was kept, or that was killed before it could clean up."""
    lab = _lab(mode)
    if not lab.existing():
        print("no lab is up: there is no network namespace of its names")
        return 0
    lab.adopt()
    _take_down(lab)
    return 0


def _say(text: str) -> None:
    """Print what comes next, unless a signal has asked to end."""
    signals.check()
    print(text, flush=True)


def _lab(mode: str, **options) -> Lab:
    return Lab(**options) if mode == "nat" else RoutedLab(mode, **options)


def _tour(mode: str, lab: Lab, recorded: list[Recording] | None) -> None:
    _say(f"The {TITLES[mode]} example of the LVS article, in network namespaces of this machine.\n")
    _say(PICTURES[mode])
    _say("Building it:")
    lab.up()
    lab.say("web servers   each answers with its own name on port 80")
    lab.start_web_servers()
    if lab.bare:
        return
    options = _director_options(mode, lab)
    if recorded is not None:
        options += ["--data-path", "rewrite"]       # the one in which lbq has every packet in hand
        capture = recording.prepare(lab)
    lab.say("director      in lbq-director:")
    _say("    lbq " + " ".join(options))
    director = lab.start_director(*options)
    _print_log(director)

    _say(f"\n{REQUESTS} requests from lbq-client to http://{lab.vip}/, each a new connection:")
    watch = None if mode == "nat" else lab.watch()
    answers = Counter(_request(lab, number) for number in range(1, REQUESTS + 1))
    _say("  " + ", ".join(f"{name} answered {answers[name]}" for name in sorted(answers)))

    if watch is not None:
        _say("\nWhich way packets from the VIP to the client went:")
        for line in watch.report():
            _say("  " + line)
    _say("\nWhat the director counted (lbq list):")
    _say(_indent(lab.lbq("list").stdout) + "\n")
    if recorded is not None:
        _say("One more request, on every interface of which its packets are recorded:")
        recorded.append(recording.record(mode, lab, capture, lambda port: _request(lab, REQUESTS + 1, port)))
        _say("")


def _director_options(mode: str, lab: Lab) -> list[str]:
    options = ["--vip", f"{lab.vip}:80", "--mode", mode, "--scheduler", "rr"]
    for server in lab.servers:
        options += ["--real", f"{server.address}:80"]
    return options


def _request(lab: Lab, number: int, port: int = 0) -> str:
    """Send one request over a connection of its own, from *port* if one is said; print its line, return who answers."""
    connection = http.client.HTTPConnection(lab.vip, 80, timeout=TIMEOUT, source_address=("", port) if port else None)
    try:
        with lab.client.inside():
            connection.connect()
        address, port = connection.sock.getsockname()
        connection.request("GET", "/")
        answer = connection.getresponse().read().decode().strip()
    except OSError as error:
        director = lab.director.processes[0]
        raise HostError(f"request {number} from lbq-client to http://{lab.vip}/ failed: {error}; "
                        f"the director{director.last_words()}") from error
    finally:
        connection.close()
    _say(f"  {number:2}.  from {address}:{port}  answered by  {answer}")
    return answer


def _print_log(director) -> None:
    """Print what the director has said until now: what it changed on its host."""
    _say(_indent(director.log.read_text(errors="replace"), "    | "))


def _indent(text: str, margin: str = "  ") -> str:
    return "\n".join(margin + line for line in text.splitlines() if line.strip())


def _take_down(lab: Lab) -> None:
    """Take the lab down and say so; say nothing when nothing was built."""
    names = [namespace.name for namespace in lab.existing()]
    lab.down()
    if names:
        print(f"Taken down: {', '.join(names)}, and every program in them.", flush=True)


def _print_what_to_play_with(mode: str, lab: Lab) -> None:
    lbq = own_command()
    service, web02 = f"{lab.vip}:80", f"{lab.servers[1].address}:80"
    suggestions = {
        "one more request": f"ip netns exec lbq-client curl http://{lab.vip}/",
        "who has how many": f"ip netns exec lbq-director {lbq} list",
        "every connection": f"ip netns exec lbq-director {lbq} conns",
        "nothing new for web02": f"ip netns exec lbq-director {lbq} set server {service} {web02},weight=0",
        "web02 leaves": f"ip netns exec lbq-director {lbq} del server {service} {web02}",
        "the rules behind it": "ip netns exec lbq-director iptables -t mangle -S",
        "why replies come back": "ip netns exec lbq-web01 ip route",
        "take it all down": f"{lbq} lab {mode} --down",
    }
    print("The lab stays up.  Play with it:")
    for purpose, command in suggestions.items():
        print(f"  {purpose:22} {command}")
    print(f"The logs of its programs are in {lab.folder}/", flush=True)


def own_command() -> str:
    """Return how ``lbq`` was called, in a form that works in any folder."""
    if shutil.which("lbq"):
        return "lbq"
    program = Path(sys.argv[0]).absolute()
    if program.name == "lbq":
        return str(program)
    return f"env PYTHONPATH={this_lbq()['PYTHONPATH']} {' '.join(lbq_command())}"
