"""A real browser for tests: Chromium over its debugging pipe, without any library."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Of every text that is seen: 4.5 to 1 against what lies behind it, 3 to 1 where it is large (WCAG 2.2, 1.4.3). What lies
# behind is the nearest colour that hides what is below it; bars behind figures are gradients, which are passed over.
CONTRAST = """(() => {
  const pen = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d", {willReadFrequently: true});
  const on = (colour, below) => {
    pen.fillStyle = `rgb(${below})`; pen.fillRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const behind = (e) => {
    const layers = [];
    for (; e; e = e.parentElement) layers.push(getComputedStyle(e).backgroundColor);
    return layers.reduceRight((below, colour) => on(colour, below), [255, 255, 255]);
  };
  const light = (c) => c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const texts = [], seen = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (seen.nextNode()) {
    const e = seen.currentNode.parentElement, style = getComputedStyle(e);
    if (!seen.currentNode.data.trim() || !e.checkVisibility({checkOpacity: true, checkVisibilityCSS: true})) continue;
    if (e.closest("script, style, option, .sr, [disabled]")) continue;
    const below = behind(e), ink = on(e.namespaceURI.endsWith("svg") ? style.fill : style.color, below);
    const [a, b] = [light(ink), light(below)].sort((x, y) => y - x), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    texts.push({text: seen.currentNode.data.trim().slice(0, 40), ratio: (a + 0.05) / (b + 0.05), least: large ? 3 : 4.5});
  }
  return {texts: texts.length, pale: texts.filter((t) => t.ratio < t.least).slice(0, 8)};
})()"""


class Browser:
    """One headless Chromium with one page. Time passes as for a person, unlike with ``--virtual-time-budget``."""

    def __init__(self, profile: Path, width: int = 1400, height: int = 1000) -> None:
        to_browser, ours = os.pipe()
        theirs, from_browser = os.pipe()[::-1]
        script = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--disable-background-networking",
        ]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", str(to_browser), str(theirs), str(CHROMIUM), *flags],
            pass_fds=(to_browser, theirs), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(theirs)
        self._out, self._in, self._buffer, self._last = ours, from_browser, b"", 0
        self.events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def open(self, url: str) -> None:
        """Load a page anew, also where only what follows the # differs from the page before."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page (what JSON can hold)."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 120.0) -> Any:
        """Until the expression is true; one that fails (there is no body yet) counts as false."""
        end = time.monotonic() + seconds
        safe = f"(() => {{ try {{ return {expression} }} catch (error) {{ return false }} }})()"
        while not (value := self.evaluate(safe)):
            assert time.monotonic() < end, f"still false after {seconds:.0f} s: {expression}"
            time.sleep(0.1)
        return value

    def screenshot(self, path: Path) -> Path:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path

    def call(self, method: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol on the page."""
        return self._call(method, self._session, **parameters)

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._last:
            self.events.append(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], 120)
            chunk = os.read(self._in, 1 << 20) if ready else b""
            assert chunk, "the browser does not answer"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(line))
