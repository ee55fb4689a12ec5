"""``lbq lab nat``: the article's NAT example, built, tried with ten requests, shown and taken down.

What a student sees is made here; the network is ``topology.py``, the director the real one.
"""
from __future__ import annotations

import http.client
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

from lbq.errors import HostError
from lbq.lab.topology import Lab, lbq_command, require_root

REQUESTS = 10
TIMEOUT = 10        # seconds; a request in the lab takes a millisecond
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

PICTURE = """\
  lbq-client                       lbq-director                        lbq-web01
  192.168.10.100 ──────── VIP 192.168.10.1 │ 192.168.20.254 ────┬───── 192.168.20.1
                                                                │
                                                                │      lbq-web02
                                                                └───── 192.168.20.2
"""


class Interrupted(Exception):
    """A signal asked the lab to end."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


def main(keep: bool) -> int:
    """Give the tour; take everything down at the end, unless *keep*, whatever happened."""
    require_root()
    lab = Lab(keep=keep, say=lambda line: print("  " + line, flush=True))
    if taken := ", ".join(namespace.name for namespace in lab.existing()):
        raise HostError(f"cannot build the lab: network namespace {taken} exists already; "
                        "if it is from an earlier lab, take that down with: lbq lab nat --down")
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    finished = False
    try:
        _tour(lab)
        finished = True
        return 0
    except Interrupted as interrupted:
        print(f"\n{interrupted}: the lab ends here", flush=True)
        return interrupted.status
    finally:
        if finished and keep:
            _print_what_to_play_with(lab)
        else:
            _take_down(lab)


def take_down() -> int:
    """End a lab that was kept, or that was killed before it could clean up."""
    lab = Lab()
    if not lab.existing():
        print("no lab is up: there is no network namespace of its names")
        return 0
    lab.adopt()
    _take_down(lab)
    return 0


def _interrupt(number, frame) -> None:
    """Turn the first signal into an exception; the teardown that it starts is not interrupted again."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)


def _tour(lab: Lab) -> None:
    print("The NAT example of the LVS article, in network namespaces of this machine.\n")
    print(PICTURE)
    print("Building it:")
    lab.up()
    lab.say("web servers   each answers with its own name on port 80")
    lab.start_web_servers()
    options = _director_options(lab)
    lab.say("director      in lbq-director:")
    print("    lbq " + " ".join(options), flush=True)
    director = lab.start_director(*options)
    _print_log(director)

    print(f"\n{REQUESTS} requests from lbq-client to http://{lab.vip}/, each a new connection:", flush=True)
    answers = Counter(_request(lab, number) for number in range(1, REQUESTS + 1))
    print("  " + ", ".join(f"{name} answered {answers[name]}" for name in sorted(answers)))

    print("\nWhat the director counted (lbq list):", flush=True)
    print(_indent(lab.lbq("list").stdout), flush=True)


def _director_options(lab: Lab) -> list[str]:
    options = ["--vip", f"{lab.vip}:80", "--mode", "nat", "--scheduler", "rr"]
    for server in lab.servers:
        options += ["--real", f"{server.address}:80"]
    return options


def _request(lab: Lab, number: int) -> str:
    """Send one request over a connection of its own, print its line, return who answered."""
    connection = http.client.HTTPConnection(lab.vip, 80, timeout=TIMEOUT)
    try:
        with lab.client.inside():
            connection.connect()
        address, port = connection.sock.getsockname()
        connection.request("GET", "/")
        answer = connection.getresponse().read().decode().strip()
    except OSError as error:
        raise HostError(f"request {number} from lbq-client to http://{lab.vip}/ failed: {error}; "
                        "the director's log is above") from error
    finally:
        connection.close()
    print(f"  {number:2}.  from {address}:{port}  answered by  {answer}", flush=True)
    return answer


def _print_log(director) -> None:
    """Print what the director has said until now: what it changed on its host."""
    print(_indent(director.log.read_text(errors="replace"), "    | "), end="", flush=True)


def _indent(text: str, margin: str = "  ") -> str:
    return "".join(f"{margin}{line}\n" for line in text.splitlines() if line.strip())


def _take_down(lab: Lab) -> None:
    """Take the lab down and say so; say nothing when nothing was built."""
    names = [namespace.name for namespace in lab.existing()]
    lab.down()
    if names:
        print(f"Taken down: {', '.join(names)}, and every program in them.", flush=True)


def _print_what_to_play_with(lab: Lab) -> None:
    lbq = _own_command()
    service, web02 = f"{lab.vip}:80", f"{lab.servers[1].address}:80"
    suggestions = {
        "one more request": f"ip netns exec lbq-client curl http://{lab.vip}/",
        "who has how many": f"ip netns exec lbq-director {lbq} list",
        "every connection": f"ip netns exec lbq-director {lbq} conns",
        "nothing new for web02": f"ip netns exec lbq-director {lbq} set server {service} {web02},weight=0",
        "web02 leaves": f"ip netns exec lbq-director {lbq} del server {service} {web02}",
        "the rules behind it": "ip netns exec lbq-director iptables -t mangle -S",
        "why replies come back": "ip netns exec lbq-web01 ip route",
        "take it all down": f"{lbq} lab nat --down",
    }
    print("The lab stays up.  Play with it:")
    for purpose, command in suggestions.items():
        print(f"  {purpose:22} {command}")
    print(f"The logs of its programs are in {lab.folder}/", flush=True)


def _own_command() -> str:
    """Return how ``lbq`` was called, in a form that works in any folder."""
    if shutil.which("lbq"):
        return "lbq"
    program = Path(sys.argv[0]).absolute()
    return str(program) if program.name == "lbq" else " ".join(lbq_command())
