"""The tutorial: its pictures show all that was recorded, and the real ipvsadm's lines are those that were tried."""
from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import hop_diagram
import pytest
import recorded
import tutorial_pages

from tests.helpers.documented import blocks, commands
from tests.helpers.sphinx import DOCS

SVG = "{http://www.w3.org/2000/svg}"
PAGE = DOCS / "tutorial.md"


@pytest.fixture(params=tutorial_pages.METHODS)
def mode(request) -> str:
    """Run the test for each experiment."""
    return request.param


def picture(mode: str) -> ElementTree.Element:
    return ElementTree.fromstring(tutorial_pages.pages()[f"tutorial/{mode}.svg"])


def test_every_hop_has_its_arrow_and_every_change_is_said(mode):
    drawn, steps = picture(mode), [step for packet in recorded.load(mode)["packets"] for step in packet["steps"]]
    text = " ".join(label.text for label in drawn.iter(f"{SVG}text"))

    assert len(drawn.findall(f".//{SVG}polygon")) == sum(step["kind"] == "wire" for step in steps)
    for step in steps:
        for _, said in hop_diagram.said(step):
            assert said in text
    assert drawn.find(f"{SVG}title").text.startswith("One request by ")


def test_everything_is_inside_the_picture(mode):
    drawn = picture(mode)
    _, _, width, height = map(float, drawn.get("viewBox").split())
    for label in drawn.iter(f"{SVG}text"):
        half = len(label.text) * hop_diagram.CHARACTER / 2 if label.get("text-anchor") else 0
        assert half <= float(label.get("x")) <= width - half, label.text
    last = drawn.findall(f"{SVG}g")[-1]
    assert float(re.findall(r"[\d.]+", last.get("transform"))[1]) < height


@pytest.mark.parametrize("scheme", range(2), ids=["light", "dark"])
def test_every_colour_stands_out_from_the_paper(scheme):
    """WCAG 2.2, 1.4.3: at least 4.5 to 1."""
    colours = dict(re.findall(r"--(\w+): (#\w{6})", hop_diagram.STYLE.split("@media")[scheme]))
    for paper in ("paper", "band"):
        for name in colours.keys() - {"paper", "band"}:
            light, dark = sorted((_luminance(colours[paper]), _luminance(colours[name])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (paper, name)


def _luminance(colour: str) -> float:
    parts = [int(colour[at:at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_what_differs_is_what_the_recordings_say():
    def changed(mode: str, who: str) -> set[str]:
        return {field for packet in recorded.load(mode)["packets"] for step in packet["steps"]
                for by, header, field, *_ in step["changed"] if who in by and header == "IP"}

    assert {"source", "destination"} <= changed("nat", "lbq")
    for mode in ("dr", "tun"):
        assert not {"source", "destination"} & changed(mode, "lbq")
    assert ["lbq", "Ethernet", "destination MAC"] in [
        change[:3] for step in recorded.load("dr")["packets"][0]["steps"] for change in step["changed"]]


def test_the_real_ipvsadm_is_told_what_lbq_ipvsadm_was_told():
    shown = [line for lines in blocks(PAGE) for line in lines if line.startswith("ipvsadm ")]
    tried = {command.line.partition(" lbq-")[2] for command in commands(PAGE)}
    assert len(shown) == 9 and set(shown) <= tried
