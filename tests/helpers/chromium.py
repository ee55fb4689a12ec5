"""Headless Chromium, driven by its DevTools protocol over two pipes: JSON messages that end with a zero byte.

https://chromedevtools.github.io/devtools-protocol/; with ``--remote-debugging-pipe`` Chromium reads descriptor 3 and
writes descriptor 4, so no port is opened and no library is needed.
"""
from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import time
from pathlib import Path

from tests.helpers.processes import wait_until

START_SECONDS = 60
FIRST_FREE = 10         # the descriptors below are moved out of the way of 3 and 4
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35, "Tab": 9, "Enter": 13}


class Chromium:
    """A browser with one page, inside a ``with`` block; *messages* is what a console would show, and every request."""

    def __init__(self, profile: Path):
        self.profile = profile
        self.waiting = b""
        self.called = 0
        self.session: str | None = None
        self.messages: list[str] = []
        self.requests: list[str] = []

    def __enter__(self) -> Chromium:
        commands, self.commands = os.pipe()
        self.answers, answers = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, FIRST_FREE) for end in (commands, answers)]

        def take_ends() -> None:
            for number, end in enumerate(ends, 3):
                os.dup2(end, number)

        # close_fds would close 3 and 4 after take_ends(); all of ours but those are closed by exec anyway.
        self.process = subprocess.Popen(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
             f"--user-data-dir={self.profile}", "about:blank"],
            preexec_fn=take_ends, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        for end in (commands, answers, *ends):
            os.close(end)
        [page] = wait_until(self._pages, timeout=START_SECONDS)
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *error) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.commands)
        os.close(self.answers)

    def _pages(self) -> list[dict]:
        """Return the pages there are: none for a moment, as Chromium answers before it has opened the first."""
        return [each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page"]

    def call(self, method: str, **params) -> dict:
        """Return the result of *method*."""
        self.called += 1
        message = {"id": self.called, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.called:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _read(self) -> dict:
        """Return the next message; what the page has said or asked for is noted."""
        deadline = time.monotonic() + START_SECONDS
        while b"\0" not in self.waiting:
            ready, _, _ = select.select([self.answers], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"Chromium has not answered in {START_SECONDS} s"
            piece = os.read(self.answers, 1 << 20)
            assert piece, "Chromium has ended"
            self.waiting += piece
        line, _, self.waiting = self.waiting.partition(b"\0")
        message = json.loads(line)
        if message.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.messages.append(json.dumps(message["params"]))
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        return message

    def open(self, url: str) -> None:
        """Go to *url* and wait until it has loaded."""
        self.call("Page.navigate", url="about:blank")       # with another fragment alone nothing would load
        self.call("Page.navigate", url=url)
        self.wait_for(f"location.href == {json.dumps(url)} && document.readyState == 'complete'")

    def wait_for(self, expression: str, seconds: float = 20) -> None:
        """Wait until *expression* is true."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.02)

    def evaluate(self, expression: str, wait: bool = False):
        """Return the value of a JavaScript *expression*, or what it promises, which to *wait* for."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=wait)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def text(self, selector: str) -> str:
        """Return the text of the element that a CSS *selector* finds."""
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        code = KEYS.get(key, ord(key[0]))
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def click(self, selector: str) -> None:
        """Click the middle of the element that a CSS *selector* finds, as a mouse does."""
        x, y = self.evaluate(f"(e => {{ e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect(); "
                             f"return [b.x + b.width / 2, b.y + b.height / 2] }})"
                             f"(document.querySelector({json.dumps(selector)}))")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def resize(self, width: int, height: int, is_phone: bool = False) -> None:
        """Give the page a screen of this size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=is_phone)

    def prefer(self, **features: str) -> None:
        """Have the user prefer things, such as ``prefers_color_scheme="dark"``."""
        self.call("Emulation.setEmulatedMedia", features=[
            {"name": name.replace("_", "-"), "value": value} for name, value in features.items()])

    def screenshot(self, path: Path) -> None:
        """Write what the page looks like to *path*."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
