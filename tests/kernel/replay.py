"""Plays a scenario from a file on a kernel and on lbq, step by step, and says where they differ.

    python -m tests.kernel.replay FILE [--kernel classic|new] [--engine fast|reference] [--shrink]

FILE is JSON, one scenario, as the suite writes it when it finds a difference; scenarios.py has the words.
With --shrink the scenario is first made as short as possible, and written back to FILE.
"""
from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from tests.helpers.engines import ENGINES
from tests.kernel import compare
from tests.kernel.guest import KINDS, GuestError
from tests.kernel.player import Player
from tests.kernel.session import transcripts
from tests.kernel.shrink import shrink

CONFIGURATION = ("ipvsadm", "sysctl", "wait")


def main() -> int:
    """Replay what the command line names; return 1 when kernel and lbq differ."""
    parser = argparse.ArgumentParser(description="Play a scenario on a kernel and on lbq, and compare.")
    parser.add_argument("file", type=Path, help="a scenario, JSON")
    parser.add_argument("--kernel", choices=KINDS, default="classic")
    parser.add_argument("--engine", choices=list(ENGINES), default="reference")
    parser.add_argument("--shrink", action="store_true", help="make it as short as possible first")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)       # guests end with us
    engines = {arguments.engine: ENGINES[arguments.engine]}
    try:
        scenario = json.loads(arguments.file.read_text())
        if arguments.shrink:
            scenario, _ = shrink(scenario, arguments.kernel, engines)
            arguments.file.write_text(json.dumps(scenario, indent=1) + "\n")
        [(scenario, transcript)] = transcripts(arguments.kernel, [scenario])
        if transcript["late"]:
            raise GuestError("the machine is too busy: timeouts ran out before their time; try again")
    except (OSError, ValueError, GuestError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 2
    return tell(scenario, transcript, engines[arguments.engine](profile=arguments.kernel))


def tell(scenario: dict, transcript: dict, engine) -> int:
    """Print every step with what kernel and lbq did; return 1 when they differ."""
    player = Player(engine, scenario.get("world", {}))
    for step, raw, at in zip(scenario["steps"], transcript["results"], transcript["at"], strict=True):
        kernel = compare.common(step, raw, transcript["kind"])
        lbq = player.play(step, at)
        print(in_words(step))
        what = compare.difference(step, kernel, lbq)
        if what:
            print(f"    DIFFERENT: {what}")
            return 1
        if step["do"] not in CONFIGURATION and kernel is not None:
            print(f"    both: {json.dumps(kernel)}")
    print("no difference")
    return 0


def in_words(step: dict) -> str:
    """Return *step* in one line."""
    if step["do"] == "ipvsadm":
        return f"ipvsadm {step['line']}"
    return " ".join([step["do"], *(f"{name}={value}" for name, value in step.items() if name != "do")])


if __name__ == "__main__":
    sys.exit(main())
