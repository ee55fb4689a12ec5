"""`lbq whatif` beside the running director: what it foretells comes true, and asking changes nothing."""
from __future__ import annotations

import json

import pytest

from tests.helpers.topology import hold, listing, start_endpoints, still_answers


def test_who_is_stranded_is_foretold(lab):
    start_endpoints(lab, "hold")
    lab.start_director("--mode", "nat", "--scheduler", "rr", *(word for server in lab.servers
                                                              for word in ("--real", f"{server.address}:80")))
    held = [hold(lab.client, lab.vip) for _ in range(4)]
    before = listing(lab)["stats"]["conns"]
    change = f"del server {lab.vip}:80 {lab.servers[0].address}"

    said = json.loads(lab.lbq("whatif", "--json", change).stdout)
    assert said["fates"] == {"stays": 2, "moves": 0, "cut": 0, "stranded": 2}
    stranded = {each["client"] for each in said["connections"]}
    assert len(stranded) == 2
    assert listing(lab)["stats"]["conns"] == before and len(listing(lab)["servers"]) == 2
    assert all(still_answers(sock) for _, sock in held)

    lab.lbq(*change.split())
    for _, sock in held:
        if "{}:{}".format(*sock.getsockname()) in stranded:
            sock.settimeout(1)
            with pytest.raises(TimeoutError):
                still_answers(sock)
        else:
            assert still_answers(sock)
