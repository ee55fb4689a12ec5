"""What is on the screen, and what keys do: without a terminal."""
from __future__ import annotations

import time

import pytest

from lbq.errors import ConfigError, NotRunning
from lbq.top.keys import ACTIONS
from lbq.top.layout import ASCII
from lbq.top.model import ALERT, FAINT, SELECTED, Top

VIP, IDLE, SIX = "192.168.10.1:80", "192.168.10.2:80", "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535"


@pytest.fixture
def three(watched):
    """Three services, one of them of IPv6 and with the longest of names."""
    watched.add(VIP, "192.168.20.1", "192.168.20.2,weight=0", "192.168.20.3,upper=1", scheduler="rr")
    watched.add(IDLE, "192.168.20.1", scheduler="rr")
    watched.add(SIX, "[2001:db8:1::1]:65535")
    watched.look()
    for port in range(2):
        watched.open(f"192.168.10.100:{40000 + port}", VIP)
    watched.open("[2001:db8::9]:1234", SIX)
    watched.look()
    return watched


def names(watched, *size: int) -> list[str]:
    """Return the first words of the rows on the screen."""
    return [row[0] for row in watched.rows(*size)]


def test_the_screen_shows_the_director_its_services_and_what_is_new(three):
    first, *lines = three.lines()

    assert first.startswith("lbq top  12:00:00  up ")
    assert lines == [
        "connections 3 of 1048576  new 0/s  packets in 0/s out 0/s  bytes in 0/s out 0/s",
        "queue not bound  lost 0, 0/s",
        "states  SYN_RECV 3",
        "services: 3",
        "SERVICE                                       ACTIVE CONN/S ▼PKT/S   IN/S  OUT/S",
        "tcp:192.168.10.1:80                                2      0      0      0      0",
        "tcp:192.168.10.2:80                                0      0      0      0      0",
        "tcp:[2001:db8:1234:567…:def0:1234:5678]:65535      1      0      0      0      0",
        *[""] * 8,
        "newest connections",
        "0 s   [2001:db8::9]:1234   → tcp:[2…8]:65535 → [2001:db8:1::1]:65535 SYN_RECV",
        "0 s   192.168.10.100:40001 → tcp:19….10.1:80 → 192.168.20.1:80       SYN_RECV",
        "0 s   192.168.10.100:40000 → tcp:19….10.1:80 → 192.168.20.3:80       SYN_RECV",
        "", "",
        "h help  q quit  enter servers  < > sort  r reverse  / filter  space pause"]


def test_workers_and_a_trace_are_named(three):
    assert "workers" not in three.lines(120)[0] and "traced" not in three.lines(120)[0]
    three.director.operations.facts["workers"] = 2
    three.director.operations.traced = 1
    three.look()

    assert three.lines(120)[0].endswith("  workers 2  traced")


def test_forty_columns_show_what_matters_most(three):
    assert three.lines(40)[5:9] == [
        "states  SYN_RECV 3",
        "services: 3",
        "SERVICE                    ACTIVE ▼PKT/S",
        "tcp:192.168.10.1:80             2      0"]
    assert three.lines(40)[-1] == "h help  q quit  enter servers  < > sort"


def test_a_wide_terminal_shows_all_columns(three):
    lines = three.lines(132)

    assert lines[5] == f"{'SERVICE':<50} SCHED UP/ALL ACTIVE  INACT CONN/S ▼PKT/S   IN/S  OUT/S"
    assert lines[6] == f"{'tcp:192.168.10.1:80':<50} rr    1/3         2      0      0      0      0      0"


@pytest.mark.parametrize("keys", ["", "h", "/", "\n", "\n\n", "  "])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 24), (200, 60), (20, 6), (3, 3), (1, 1)])
def test_every_size_is_filled_and_not_more(three, keys, width, height):
    three.press(*("enter" if key == "\n" else key for key in keys))
    three.look()
    frame = three.top.frame(width, height, three.now, "12:00:00")

    assert len(frame) <= height and max(len(line.text) for line in frame) <= width
    assert len(frame) == height or keys == "h"


def test_a_terminal_without_utf_8_gets_ascii_only(three):
    three.top.marks = ASCII

    shown = "\n".join(three.lines(60))
    assert shown.isascii() and "vPKT/S" in shown
    assert "~" in shown and "-> 192.168.20.1:80" in shown


def test_a_scheduler_with_escapes_in_its_name_cannot_draw(three):
    for service in three.watch.listing.services.values():
        service.row["scheduler"] = "\x1b[2Jé"

    assert all(line.isprintable() for line in three.lines(132))


def test_enter_goes_into_a_service_and_a_server_and_esc_comes_back(three):
    three.press("enter")
    three.look()
    assert three.lines(80)[4:9] == [
        "tcp:192.168.10.1:80 rr rewrite, servers: 3",
        "SERVER          STATE    MODE  WEIGHT ACTIVE  INACT CONN/S ▼PKT/S   IN/S  OUT/S",
        "192.168.20.3:80 full     nat        1      1      0      0      0      0      0",
        "192.168.20.2:80 quiesced nat        0      0      0      0      0      0      0",
        "192.168.20.1:80 up       nat        1      1      0      0      0      0      0"]

    three.press("end", "enter")
    three.look()
    assert three.lines(80)[4:7] == [
        "tcp:192.168.10.1:80 at 192.168.20.1:80, connections: 1",
        "CLIENT▲              STATE       LEFT    PKT IN SERVICE",
        "192.168.10.100:40001 SYN_RECV    0 s          1 tcp:192.168.10.1:80"]

    three.press("enter")
    assert three.lines()[-1] == "there is nothing more to be seen of it"
    three.press("escape")
    assert names(three)[three.top.level.index] == "192.168.20.1:80"
    three.press("escape", "escape")
    assert names(three)[0] == f"tcp:{VIP}" and three.lines()[4] == "services: 3"


def test_connections_of_ipv6_are_found(three):
    three.press("end", "enter")
    three.look()
    three.press("enter")
    three.look()

    assert names(three) == ["[2001:db8::9]:1234"]


def test_one_comes_back_to_the_service_one_went_into(three):
    three.top.do_sort_by("active")
    three.press("enter")
    three.look()
    for port in range(3):
        three.open(f"192.168.10.100:{42000 + port}", IDLE)
    three.press("escape")
    three.look()

    assert names(three, 132)[0] == f"tcp:{IDLE}" and names(three, 132)[three.top.level.index] == f"tcp:{VIP}"


def test_connections_of_a_mark_and_a_server_without_port_are_found(watched):
    watched.add("fwmark:7", "192.168.20.1", persistent=300)
    watched.look()
    watched.press("enter")
    watched.look()
    assert watched.lines()[4] == "fwmark:7 wlc persistent 300 rewrite, servers: 1"
    watched.press("enter")
    watched.look()

    assert watched.lines()[4] == "fwmark:7 at 192.168.20.1:0, connections: 0"
    row = {"fwmark": 7, "caddr": "10.0.0.9", "daddr": "192.168.20.1", "dport": 443}
    assert watched.watch.wanted(row)
    assert not watched.watch.wanted({**row, "fwmark": 8}) and not watched.watch.wanted({**row, "daddr": "192.168.20.2"})


def test_the_selected_row_stays_selected_when_the_order_changes(three):
    three.press("down")
    three.lines()
    selected = [line.text.split()[0] for line in three.top.frame(80, 24, three.now, "") if line.look == SELECTED]
    assert selected == [f"tcp:{IDLE}"]

    three.press(*["<"] * 3)         # ACTIVE
    assert names(three, 132) == [f"tcp:{VIP}", f"tcp:{SIX}", f"tcp:{IDLE}"]
    selected = [line.text.split()[0] for line in three.top.frame(132, 24, three.now, "") if line.look == SELECTED]
    assert selected == [f"tcp:{IDLE}"]


def test_keys_sort_by_any_column_either_way(three):
    titles = [column.title for column in three.top.level.columns]
    orders = {}
    for _ in titles:
        three.press(">")
        orders[titles[three.top.level.sorted_by]] = names(three, 132)
    assert set(orders) == set(titles)
    assert orders["SERVICE"] == orders["PKT/S"] == [f"tcp:{VIP}", f"tcp:{IDLE}", f"tcp:{SIX}"]
    assert orders["ACTIVE"] == [f"tcp:{VIP}", f"tcp:{SIX}", f"tcp:{IDLE}"]

    three.top.do_sort_by("service")
    three.press("r")
    assert names(three, 132) == orders["SERVICE"][::-1]
    while titles[three.top.level.sorted_by] != "ACTIVE":
        three.press(">")
    three.press("r")
    assert names(three, 132) == orders["ACTIVE"][::-1]


def test_addresses_are_sorted_as_numbers(watched):
    for address in ("10.0.0.10", "10.0.0.9", "9.0.0.1"):
        watched.add(f"{address}:80")
    watched.look()
    watched.top.do_sort_by("service")

    assert names(watched) == ["tcp:9.0.0.1:80", "tcp:10.0.0.9:80", "tcp:10.0.0.10:80"]


def test_an_unknown_column_is_refused(watched):
    with pytest.raises(ConfigError, match=r"no column 'conns/s'; did you mean 'conn/s'\?; there are"):
        Top(watched.watch, 1.0, ASCII, "conns/s")


def test_a_filter_shows_what_contains_it(three):
    three.press("/", *"192.168.20.3x", "backspace")
    assert three.lines()[-1] == "show only what contains: 192.168.20.3_   (enter, esc)"

    three.press("enter")
    assert names(three) == [f"tcp:{VIP}"] and three.lines()[4] == "services: 3, with '192.168.20.3': 1"
    three.press("/", "q", "escape")
    assert names(three) == [f"tcp:{VIP}"] and not three.top.is_done
    three.press("escape")
    assert len(names(three)) == 3


def test_a_filter_that_matches_nothing_says_so(three):
    three.press("/", *"nothing", "enter")

    assert three.lines()[4] == "services: 3, with 'nothing': 0" and names(three) == []
    three.press("enter", "down", "end")
    assert len(three.top.levels) == 1


def test_a_long_list_scrolls(watched):
    for number in range(50):
        watched.add(f"10.0.0.{number}:80")
    watched.look()
    first = names(watched)
    watched.press("page down")
    assert names(watched) == [f"tcp:10.0.0.{number}:80" for number in range(1, len(first) + 1)]
    watched.press("end")
    assert names(watched)[-1] == "tcp:10.0.0.49:80"
    watched.press("up")
    assert watched.top.level.index == 48
    watched.press("page up", "home")
    assert names(watched) == first
    watched.press("end")
    names(watched)
    for number in range(40):
        watched.call("delete_service", service=f"10.0.0.{number}:80")
    watched.look()
    assert len(names(watched)) == 10


def test_keys_do_not_make_it_look_more_often(three):
    three.top.look_due = time.monotonic() + 60
    three.press("down", "r", ">", "/", "1", "enter")
    assert three.top.seconds_to_look(time.monotonic()) > 50

    before = time.monotonic()
    three.press("enter")
    due = three.top.look_due
    assert due >= before + 0.2
    three.press(*["escape", "enter"] * 100)
    assert three.top.look_due == due


def test_pause_asks_nothing_until_it_goes_on(three):
    assert three.top.seconds_to_look(0) is not None
    three.press(" ")
    assert three.top.seconds_to_look(0) is None and three.lines()[0].startswith("lbq top  PAUSED  ")
    assert three.lines()[-1].endswith("space go on")
    three.press(" ")
    assert three.top.seconds_to_look(0) is not None


def test_help_names_every_key(three):
    three.press("h")
    shown = "\n".join(three.lines())
    assert all(key in shown for key in ACTIONS if key not in (" ", "escape", "backspace"))
    assert len(three.lines()) <= 24

    three.press("x")
    assert three.lines()[4] == "services: 3"
    three.press("?", "q")
    assert three.top.is_done


def test_an_unknown_key_names_the_help(three):
    three.press("x")

    assert three.lines()[-1] == "no such key; h shows those there are"


def test_losses_are_shown_with_their_reason(three):
    three.call("clear")
    three.add(VIP)
    for port in range(4):
        three.open(f"192.168.10.100:{50000 + port}", VIP)
    three.look(2)
    losses = [(line.text, line.look) for line in three.top.frame(80, 24, three.now, "")][2:4]

    assert losses == [("queue not bound  lost 4, 2/s", ALERT),
                      ("lost: 4, 2/s, no real server can take the connection (dropped_no_server)", ALERT)]


def test_the_kernels_queue_is_shown(three, monkeypatch):
    from lbq.losses import QueueCounters

    monkeypatch.setattr("lbq.control.questions.queue_counters", lambda numbers: QueueCounters(3, 5, 7))
    three.look()

    assert three.lines()[2] == "queue waiting 3  dropped 5  socket overruns 7  lost 12, 12/s"


def test_a_director_that_is_gone_is_one_line_above_what_was_last_seen(three, monkeypatch):
    """And it is not up any longer than it was then."""
    connect = three.watch.connect
    three.director.operations.facts["started"] = 1000
    monkeypatch.setattr("time.time", lambda: 1000 + three.now)
    three.look()

    def refuse():
        raise NotRunning("no director runs")

    three.watch.connect = refuse
    three.look(5)
    frame = three.top.frame(80, 24, three.now, "12:00:00")
    assert next(line.text for line in frame if line.look == ALERT) == "what is below is 5 s old: no director runs"
    assert frame[0].text.startswith("lbq top  12:00:00  up 1:43  ")
    assert next(line.text.split()[0] for line in frame if line.look == FAINT) == f"tcp:{IDLE}"

    three.watch.connect = connect
    three.look()
    assert "no director" not in "\n".join(three.lines())


def test_nothing_is_known_of_a_director_that_never_ran(watched):
    def refuse():
        raise NotRunning("no director runs")

    watched.watch.connect = refuse
    watched.look()

    assert watched.lines()[:3] == ["lbq top", "no director runs", "services: 0 so far, of 0"]


def test_a_service_that_is_deleted_is_left(three):
    three.press("enter")
    three.look()
    three.press("enter")
    three.look()
    three.call("delete_service", service=VIP)
    three.look()
    three.look()        # where it was is another one; and in a whole round it is nowhere

    assert three.lines()[-1] == "it was deleted" and three.lines()[4] == "services: 2"
    assert three.watch.wanted is None


def test_a_screen_for_a_script_has_no_keys(three):
    frame = three.top.frame(80, 24, three.now, "12:00:00", is_live=False)

    assert "h help" not in frame[-1].text and not [line for line in frame if line.look == SELECTED]
