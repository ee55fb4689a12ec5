"""The page holds its data safely, and the hundred connections are those of the real schedulers."""
from __future__ import annotations

import json
import re

from lbq.lab.report import contest, page
from lbq.schedulers import BUILT_IN

EVIL = "</script><script>alert(1)</script><!-- & \u2028 {{js}} {{css}}"


def test_nothing_in_the_data_ends_the_script_or_is_taken_for_a_part():
    story = {"mode": "nat", "packets": [{"name": EVIL, "is_reply": False}], "steps": []}
    text = page.render([story], "nat", {"title": EVIL})

    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert json.loads(data)["stories"][0]["packets"][0]["name"] == EVIL
    assert len(re.findall("<script", text)) == 2 and "alert(1)</script>" not in text


def test_the_page_asks_for_nothing_from_anywhere():
    text = page.render([], "nat", {})
    assert not re.search(r"""(src|href)=["'](?!#)|url\(|@import|fetch\(|XMLHttp|innerHTML""", text)
    assert "default-src 'none'" in text


def test_every_scheduler_has_an_answer_for_every_connection():
    told = contest.run()
    assert [each["name"] for each in told["schedulers"]] == list(BUILT_IN)
    assert all(len(each["chosen"]) == len(each["scores"]) == len(told["visits"]) == 100 for each in told["schedulers"])
    assert all(each["title"].endswith(".") and "\n" not in each["title"] for each in told["schedulers"])


def test_it_is_the_same_contest_every_time():
    assert contest.run() == contest.run()


def test_the_schedulers_are_the_real_ones():
    chosen = {each["name"]: each["chosen"] for each in contest.run()["schedulers"]}
    assert chosen["rr"] == ([2, 1, 0] * 34)[:100]               # the newest server is the first of the list
    assert sorted(chosen["wrr"][:6]) == [0, 0, 0, 1, 1, 2]
    assert set(chosen["fo"]) == {0} and set(chosen["none"]) == {None}
    assert len(set(chosen["dh"])) == 1                          # one destination, one server


def test_a_client_stays_with_its_server_by_source_hashing():
    told = contest.run(("sh", "mh"))
    for each in told["schedulers"]:
        servers: dict[str, set] = {}
        for visit, server in zip(told["visits"], each["chosen"], strict=True):
            servers.setdefault(visit["client"], set()).add(server)
        assert len(servers) > 6 and all(len(found) == 1 for found in servers.values())


def test_overflow_refuses_only_who_finds_every_server_full():
    told = contest.run(("ovf",))
    [ovf] = told["schedulers"]
    weights = [server["weight"] for server in told["servers"]]
    for now, server in enumerate(ovf["chosen"]):
        active = [sum(1 for begun in range(now) if ovf["chosen"][begun] == each
                      and begun + told["visits"][begun]["lasts"] > now) for each in range(len(weights))]
        room = [each for each, weight in enumerate(weights) if active[each] <= weight]
        assert server == (max(room, key=lambda each: weights[each]) if room else None)
