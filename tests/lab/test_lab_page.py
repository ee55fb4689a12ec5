"""`lbq lab --report`: the real labs, recorded, and the page about them in a real browser.

The page is written once; pictures of it are kept in build/screenshots.
"""
from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import recorded

from lbq.schedulers import BUILT_IN
from tests.helpers.chromium import Chromium
from tests.helpers.private_run import TIMEOUT, PrivateRun

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
CHECKSUMS = {("IP", "IP checksum"), ("TCP", "TCP checksum")}
PROJECTOR, PHONE = (1600, 900), (390, 844)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Return the file that `lbq lab nat --report` has written."""
    path = tmp_path_factory.mktemp("page") / "lab.html"
    with PrivateRun() as place:
        done = place.lbq("lab", "nat", "--report", path)
        assert (done.returncode, done.stderr) == (0, "")
        assert place.leftovers() == []
    assert f"The report is {path}" in done.stdout and "web01 answered 5, web02 answered 5" in done.stdout
    return path


@pytest.fixture(scope="module")
def data(page) -> dict:
    """Return the data in the page."""
    return recorded.data(page)


@pytest.fixture(scope="module")
def stories(data) -> dict[str, dict]:
    """Return the stories by mode."""
    return {story["mode"]: story for story in data["stories"]}


# ---- What was recorded


def wires(story: dict, number: int) -> list[tuple[str, str]]:
    """Return between which machines packet *number* went, in order."""
    return [(step["way"][0], step["way"][-1]) for step in story["steps"]
            if step["packet"] == number and step["kind"] == "wire"]


def first(story: dict, is_reply: bool) -> int:
    return next(number for number, packet in enumerate(story["packets"]) if packet["is_reply"] == is_reply)


def by(step: dict, who: str) -> set[tuple[str, str]]:
    return {(row["header"], row["field"]) for row in step["rows"] if who in row.get("by", [])}


REQUESTS = {"nat": [("client", "director"), ("director", "web02")],
            "dr": [("client", "router"), ("router", "director"), ("director", "web02")],
            "tun": [("client", "router"), ("router", "director"), ("director", "router"), ("router", "web02")]}
ANSWERS = {"nat": [("web02", "director"), ("director", "client")],
           "dr": [("web02", "router"), ("router", "client")], "tun": [("web02", "router"), ("router", "client")]}


@pytest.mark.parametrize("mode", REQUESTS)
def test_every_packet_is_seen_on_every_hop(stories, mode):
    story = stories[mode]
    for number, packet in enumerate(story["packets"]):
        assert wires(story, number) == (ANSWERS if packet["is_reply"] else REQUESTS)[mode], packet["name"]
    names = [packet["name"] for packet in story["packets"]]
    assert names[:3] == ["SYN", "SYN,ACK", "ACK"] and any(name.endswith("HTTP/1.0 200 OK") for name in names)
    assert story["steps"][0]["at_us"] == 0 and story["server"] == "web02"


@pytest.mark.parametrize("mode", REQUESTS)
def test_times_go_on_from_hop_to_hop(stories, mode):
    for number in range(len(stories[mode]["packets"])):
        times = [step["at_us"] for step in stories[mode]["steps"] if step["packet"] == number]
        assert times == sorted(times) and times[0] >= 0 and times[-1] < 60e6


def test_who_changed_what_by_nat(stories):
    story = stories["nat"]
    for step in story["steps"]:
        is_reply = story["packets"][step["packet"]]["is_reply"]
        if step["kind"] == "lbq":
            assert by(step, "lbq") == {("IP", "source" if is_reply else "destination"), *CHECKSUMS}
            assert len(step["arithmetic"]) == 2
        assert by(step, "server") == set()
    routed = [step for step in story["steps"] if ("IP", "TTL") in by(step, "host")]
    assert {step["kind"] for step in routed} == {"wire", "lbq"}         # behind lbq, and before it sees an answer


def test_who_changed_what_by_dr(stories):
    deciding = [step for step in stories["dr"]["steps"] if step["kind"] == "lbq"]
    assert len(deciding) == sum(not packet["is_reply"] for packet in stories["dr"]["packets"])
    assert all(by(step, "lbq") == {("IP", "TTL"), ("IP", "IP checksum")} for step in deciding)
    sent = [step for step in stories["dr"]["steps"] if step["way"] == ["director", "switch", "web02"]]
    assert all(by(step, "lbq") == {("Ethernet", "destination MAC"), ("Ethernet", "source MAC")} for step in sent)
    assert all("(web02)" in step["rows"][0]["value"] for step in sent)


def test_who_changed_what_by_tun(stories):
    steps = stories["tun"]["steps"]
    requests = sum(not packet["is_reply"] for packet in stories["tun"]["packets"])
    for kind, who, end in (("lbq", "lbq", "value"), ("unwrap", "server", "before")):
        found = [step for step in steps if step["kind"] == kind]
        assert len(found) == requests
        for step in found:
            outer = {row["field"]: row[end] for row in step["rows"] if row["header"] == "IP of the tunnel"}
            assert (outer["source"], outer["destination"]) == ("172.16.10.10", "10.20.2.1")
            assert {name for name in by(step, who) if name[0] == "IP of the tunnel"}


@pytest.mark.parametrize("mode", REQUESTS)
def test_the_choice_is_explained_and_the_entry_follows(stories, mode):
    story = stories[mode]
    [choice] = [step for step in story["steps"] if step.get("reasons")]
    [chosen] = [row for reason in choice["reasons"] for row in reason.get("candidates", []) if row["chosen"]]
    assert choice["entry"]["real server"] == chosen["server"] and choice["kind"] == "lbq"
    before = story["steps"][:story["steps"].index(choice)]
    assert before and all(step["entry"] is None for step in before)
    states = [step["entry"]["state"] for step in story["steps"] if step["kind"] == "lbq"]
    assert states[0] == "SYN_RECV" and "ESTABLISHED" in states
    assert states[-1] == ("TIME_WAIT" if mode == "nat" else "FIN_WAIT")


@pytest.mark.parametrize("mode", REQUESTS)
def test_the_tutorial_shows_what_happens(stories, mode):
    """Its pictures are drawn from a recording that is kept: docs/recorded.  Which side closes first is luck."""
    def sorted_packets(recording: dict) -> dict:
        return {**recording, "packets": sorted(recording["packets"], key=lambda packet: packet["name"] + str(packet))}

    assert sorted_packets(recorded.condense(stories[mode])) == sorted_packets(recorded.load(mode))


def test_what_differs_is_said_of_every_lab(data):
    ways = {row["question"]: row for row in data["differences"]}
    assert ways["way of the answer"]["nat"] == "web02 → director → client"
    assert ways["way of the answer"]["dr"] == ways["way of the answer"]["tun"] == "web02 → router → client"
    assert "none of the real server's" in ways["packets that lbq sees"]["dr"]


def test_one_lab_only_if_that_is_asked_for(tmp_path):
    path = tmp_path / "tun.html"
    with PrivateRun() as place:
        done = place.lbq("lab", "tun", "--report", path, "--only")
        assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r'"mode":"(\w+)"', path.read_text()) == ["tun"]


@pytest.mark.parametrize("until", ["Recording the same request in the tunnelling lab", "   1.", "One more request"])
def test_a_signal_leaves_neither_lab_nor_report(tmp_path, until):
    path = tmp_path / "lab.html"
    with PrivateRun() as place:
        lab = place.start("lab", "nat", "--report", path)
        try:
            for line in lab.stdout:
                if line.startswith(until):
                    break
            lab.send_signal(signal.SIGINT)
            _, errors = lab.communicate(timeout=TIMEOUT)
        finally:
            lab.kill()
            lab.wait()
        assert (lab.returncode, errors) == (130, "")
        assert place.leftovers() == [] and not path.exists()


@pytest.mark.parametrize(("words", "said"), [
    (("--report", "/nowhere/lab.html"), "cannot write /nowhere/lab.html: No such file or directory"),
    (("--report", "/"), "cannot write /: Is a directory"), (("--only",), "say --report FILE"),
    (("--down", "--report", "x.html"), "say one of --down and --report")])
def test_a_mistake_is_one_line_before_anything_is_built(words, said):
    with PrivateRun() as place:
        done = place.lbq("lab", "nat", *words)
        assert done.returncode == 2 and done.stdout == ""
        [line] = done.stderr.splitlines()
        assert said in line
        assert place.leftovers() == []


# ---- What a browser shows


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Return a browser; at the end it has had nothing to complain of."""
    with Chromium(tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium
        assert chromium.messages == []
        assert {url.partition(":")[0] for url in chromium.requests} <= {"file", "about"}


@pytest.fixture
def browser(shown, page):
    """Return the browser with the page as a user of a projector finds it."""
    shown.resize(*PROJECTOR)
    shown.prefer(prefers_color_scheme="light", prefers_reduced_motion="reduce")
    shown.open(page.as_uri())
    return shown


def test_arrow_keys_step_through_all_of_it_and_back(browser, stories):
    steps = stories["nat"]["steps"]
    seen = [browser.text("#step-title")]
    for number in range(2, len(steps) + 1):
        browser.press("ArrowRight")
        assert browser.text("#where") == f"Step {number} of {len(steps)}"
        assert browser.text("#announce").startswith(f"Step {number} of {len(steps)}, NAT.")
        assert browser.evaluate("document.querySelectorAll('[aria-current=step]').length") == 1
        seen.append(browser.text("#step-title"))
    browser.press("ArrowRight")                     # there is no step behind the last
    assert browser.text("#where").startswith(f"Step {len(steps)} of")
    for title in reversed(seen[:-1]):
        browser.press("ArrowLeft")
        assert browser.text("#step-title") == title
    browser.press("End")
    assert browser.evaluate(NOT_NOW) == ["forward", "last"]
    browser.press("Home")
    assert browser.evaluate(NOT_NOW) == ["first", "back"]


NOT_NOW = "[...document.querySelectorAll('#steps [aria-disabled=true]')].map(b => b.id)"


def test_who_comes_to_the_end_by_a_button_stays_at_the_button(browser, stories):
    browser.evaluate("document.getElementById('last').focus()")
    browser.press("Enter")
    browser.press("Enter")
    assert browser.text("#where").startswith(f"Step {len(stories['nat']['steps'])} of")
    assert browser.evaluate("document.activeElement.id") == "last"
    browser.press("ArrowLeft")
    assert browser.text("#where").startswith(f"Step {len(stories['nat']['steps']) - 1} of")


def test_keys_of_one_character_can_be_switched_off(browser):
    browser.click("#digits")
    browser.press("2")
    assert browser.text("#modes [aria-pressed=true]") == "NAT"
    browser.click("#digits")
    browser.press("2")
    assert browser.text("#modes [aria-pressed=true]") == "Direct routing"


def test_an_address_that_names_no_step_leads_to_one(browser, stories):
    last = len(stories["nat"]["steps"])
    for name, step in (("nat/2.9", 2), ("nat/x", 1), ("nat/999", last), ("nat/-3", 1)):
        browser.evaluate(f"location.hash = '#{name}'")
        browser.wait_for(f"document.getElementById('where').textContent == 'Step {step} of {last}'")
    browser.evaluate("location.hash = '#schedulers/2.5'")
    browser.wait_for("document.getElementById('contest-where').textContent.startsWith('2 of 100')")


def test_a_step_shows_packet_changes_entry_and_reasons(browser):
    browser.press("ArrowRight")
    assert browser.text("#step-title") == "SYN: lbq on the director"
    marked = browser.evaluate("[...document.querySelectorAll('#packet tr.changed')].map(r => r.textContent)")
    assert "destinationwas 192.168.10.1 now 192.168.20.2lbq" in marked and len(marked) == 3
    assert "SYN_RECV" in browser.text("#entry") and "chosen" in browser.text("#reasons")
    assert "RFC 1624" in browser.text("#packet")
    assert browser.evaluate("[...document.querySelectorAll('#network rect.used')].map(r => r.dataset.place)") == [
        "director"]
    visible = browser.evaluate("['packet', 'entry', 'reasons'].map(id => document.querySelector(`#${id} table`)"
                               ".getBoundingClientRect().top)")
    assert max(visible) < PROJECTOR[1]              # beside each other, without scrolling
    browser.screenshot(SCREENSHOTS / "nat-projector-light.png")


def test_the_switch_stays_at_the_same_packet(browser, stories):
    browser.press("ArrowRight")
    for key, mode in (("2", "dr"), ("3", "tun"), ("1", "nat")):
        browser.press(key)
        assert browser.text("#step-title") == "SYN: lbq on the director"
        assert browser.text("#modes [aria-pressed=true]") == {"nat": "NAT", "dr": "Direct routing",
                                                             "tun": "Tunnelling"}[mode]
        assert browser.text("#where").endswith(f"of {len(stories[mode]['steps'])}")
        browser.screenshot(SCREENSHOTS / f"{mode}-projector.png")
    browser.click("#modes [data-mode=tun]")
    assert stories["tun"]["vip"] in browser.text("#about")


def test_a_click_in_the_timeline_goes_there_and_the_address_leads_back(browser):
    browser.click("#timeline [data-step='4']")
    assert browser.text("#where").startswith("Step 5 of")
    address = browser.evaluate("location.href")
    title = browser.text("#step-title")
    browser.press("Home")
    browser.open(address)
    assert browser.text("#step-title") == title


def test_it_works_by_keyboard_alone_and_focus_is_seen(browser):
    """Tab from the top: each stop is a thing with a name and an outline; Enter does what a click does."""
    stops = []
    for _ in range(11):
        browser.press("Tab")
        stops.append(browser.evaluate("document.activeElement.id || document.activeElement.textContent"))
        assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", stops
        assert browser.evaluate("document.activeElement.textContent.trim()"), stops
    assert stops[1:4] == ["to-way", "to-schedulers", "theme"] and "forward" in stops
    browser.evaluate("document.getElementById('forward').focus()")
    browser.press("Enter")
    assert browser.text("#where").startswith("Step 2 of")


def test_a_screen_reader_finds_its_way(browser):
    assert browser.evaluate("['header', 'main', 'nav', 'footer'].every(e => document.querySelector(e))")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    roles = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    assert {"banner", "main", "navigation", "contentinfo", "status", "table"} <= {role for role, _ in roles}
    nameless = [role for role, name in roles if role in ("button", "link", "navigation", "slider", "region", "group",
                                                         "img", "image") and not name]
    assert nameless == []
    assert browser.evaluate("document.documentElement.lang") == "en"
    assert browser.evaluate("[...document.querySelectorAll('th')].filter(th => !th.textContent.trim()).length") == 0
    assert any("to the client: " in name for _, name in roles) and not any("◀ SYN" in name for _, name in roles)


def test_colours_follow_the_system_and_the_switch(browser):
    def is_dark() -> bool:
        red, green, blue = map(int, re.findall(r"\d+", browser.evaluate("getComputedStyle(document.body)"
                                                                        ".backgroundColor"))[:3])
        return red + green + blue < 200

    assert not is_dark()
    browser.prefer(prefers_color_scheme="dark", prefers_reduced_motion="reduce")
    assert is_dark()
    browser.press("ArrowRight")
    browser.screenshot(SCREENSHOTS / "nat-projector-dark.png")
    seen = []
    for _ in range(3):
        browser.click("#theme")
        seen.append((browser.text("#theme"), is_dark()))
    assert seen == [("Colours: light", False), ("Colours: dark", True), ("Colours: automatic", True)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(browser, scheme):
    """WCAG 2.2, 1.4.3: at least 4.5 to 1, for every text on both pages."""
    browser.prefer(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    browser.press("ArrowRight")
    assert browser.evaluate(CONTRASTS) == []
    browser.click("#to-schedulers")
    browser.wait_for("!document.getElementById('schedulers').hidden")
    browser.press("End")
    assert browser.evaluate(CONTRASTS) == []


CONTRASTS = """(() => {
  const numbers = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const light = (colour) => numbers(colour).slice(0, 3).map((each) => each / 255)
    .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
    .reduce((sum, each, index) => sum + each * [0.2126, 0.7152, 0.0722][index], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (colour.startsWith("rgb(")) return colour;
    }
  };
  return [...document.querySelectorAll("main *, header *, footer *")]
    .filter((each) => each.checkVisibility() && !(each instanceof SVGElement) && !each.closest('[aria-disabled=true]')
      && [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()))
    .map((each) => {
      const [a, b] = [light(getComputedStyle(each).color), light(behind(each))];
      return [each.outerHTML.slice(0, 80), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
    }).filter(([, ratio]) => !(ratio >= 4.5));
})()"""


def test_on_a_phone_nothing_is_wider_than_the_screen(browser):
    browser.resize(*PHONE, is_phone=True)
    for key, name in (("1", "nat"), ("2", "dr"), ("3", "tun")):
        browser.press(key)
        browser.press("ArrowRight")
        assert browser.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
        browser.screenshot(SCREENSHOTS / f"{name}-phone.png")
    small = browser.evaluate("[...document.querySelectorAll('#steps button')].map(b => b.getBoundingClientRect())"
                             ".filter(b => b.height < 40 || b.right > innerWidth).length")
    assert small == 0
    browser.evaluate("document.querySelector('article').scrollIntoView()")
    box = browser.evaluate("document.getElementById('forward').getBoundingClientRect().toJSON()")
    assert box["top"] >= 0 and box["bottom"] <= PHONE[1]            # the buttons stay while one reads
    browser.screenshot(SCREENSHOTS / "packet-phone.png")
    browser.click("#to-schedulers")
    browser.wait_for("!document.getElementById('schedulers').hidden")
    browser.press("End")
    assert browser.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    browser.screenshot(SCREENSHOTS / "schedulers-phone.png")


@pytest.mark.parametrize(("width", "height"), [PHONE, (1024, 768), (1366, 768), PROJECTOR])
def test_an_address_is_never_cut_in_two(browser, width, height):
    browser.resize(width, height, is_phone=width < 500)
    for key in "123":
        browser.press(key)
        browser.press("Home")
        while browser.evaluate("document.getElementById('forward').ariaDisabled") != "true":
            assert browser.evaluate(CUT) == []
            assert browser.evaluate(WIDER) == []
            browser.press("ArrowRight")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


CUT = """(() => {
  const found = [];
  const texts = document.createTreeWalker(document.querySelector("article"), NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    for (const match of texts.currentNode.data.matchAll(/\\d+[.]\\d+[.]\\d+[.]\\d+|(?:[0-9a-f]{2}:){5}[0-9a-f]{2}/g)) {
      const range = document.createRange();
      range.setStart(texts.currentNode, match.index);
      range.setEnd(texts.currentNode, match.index + match[0].length);
      if (new Set([...range.getClientRects()].map((box) => box.top)).size > 1) found.push(match[0]);
    }
  }
  return found;
})()"""


WIDER = """[...document.querySelectorAll("article table")].filter((table) => table.getBoundingClientRect().right >
  document.querySelector("article").getBoundingClientRect().right).map((table) => table.innerText.slice(0, 40))"""


def test_all_schedulers_play_the_same_hundred_connections(browser, data):
    browser.click("#to-schedulers")
    browser.wait_for("!document.getElementById('schedulers').hidden")
    assert browser.evaluate("[...document.querySelectorAll('.card h3')].map(e => e.textContent)") == list(BUILT_IN)
    for _ in range(40):
        browser.press("ArrowRight")
    assert browser.text("#contest-where").startswith("40 of 100") and browser.text("#announce").startswith("40 of 100")
    browser.screenshot(SCREENSHOTS / "schedulers-projector.png")
    browser.press("End")
    got = browser.evaluate("[...document.querySelectorAll('.card')].map(c => "
                           "[...c.querySelectorAll('tbody tr')].map(r => Number(r.children[1].textContent)))")
    assert got == [[each["chosen"].count(server) for server in range(3)] for each in data["contest"]["schedulers"]]
    browser.press("Home")
    browser.click("#play")
    browser.wait_for("parseInt(document.getElementById('contest-where').textContent) >= 3")
    browser.click("#play")
    stopped = browser.text("#contest-where")
    browser.evaluate("new Promise(done => setTimeout(done, 800))", wait=True)
    assert browser.text("#contest-where") == stopped


def test_motion_only_for_who_wants_it(browser):
    def moving() -> int:
        return browser.evaluate("document.getAnimations().length")

    browser.call("Animation.enable")
    browser.call("Animation.setPlaybackRate", playbackRate=0.001)      # so that it is still there when one looks
    try:
        browser.press("ArrowRight")
        browser.press("ArrowRight")
        assert moving() == 0
        browser.prefer(prefers_color_scheme="light", prefers_reduced_motion="no-preference")
        browser.press("ArrowLeft")
        browser.press("ArrowLeft")
        assert moving() > 0
    finally:
        browser.call("Animation.setPlaybackRate", playbackRate=1)
        browser.call("Animation.disable")
