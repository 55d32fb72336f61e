"""A headless Chromium driven over its debugging pipe: standard library only.

Chromium speaks the DevTools protocol over two inherited file descriptors (3: commands in,
4: answers out), one JSON message per NUL-terminated frame. That needs no port, no websocket
client and no separate driver program, so the browser tests add no dependency at all.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--mute-audio",
    "--metrics-recording-only",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--window-size=1360,900",
)


def find_chromium() -> str | None:
    """Return the path of an installed Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for path in map(shutil.which, names) if path), None)


class Chromium:
    """One browser process. Use as a context manager; `page()` opens a tab."""

    def __init__(self, program: str, *, reply_seconds: float = 60.0) -> None:
        self._reply_seconds = reply_seconds
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._commands, self._answers, self._pid = _spawn(program, Path(self._profile.name))
        self._buffer = b""
        self._next_id = 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._commands)
        os.close(self._answers)
        self._profile.cleanup()

    def page(self) -> Page:
        """Return a fresh tab with console, network and page events switched on."""
        target = self.command("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self.command("Target.attachToTarget", {"targetId": target, "flatten": True})
        page = Page(self, target, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.command(f"{domain}.enable")
        return page

    def command(
        self, method: str, params: dict[str, Any] | None = None, *, session: str | None = None
    ) -> dict[str, Any]:
        """Return the result of one DevTools command; events met on the way are kept."""
        self._next_id += 1
        message = {"id": self._next_id, "method": method, "params": params or {}}
        if session is not None:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + self._reply_seconds
        while True:
            reply = self._receive(deadline, method)
            if reply.get("id") == self._next_id:
                if "error" in reply:
                    raise RuntimeError(f"{method}: {reply['error']}")
                result: dict[str, Any] = reply["result"]
                return result
            self.events.append(reply)

    def _receive(self, deadline: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], deadline - time.monotonic())
            if not ready:
                raise TimeoutError(f"Chromium did not answer {method}")
            chunk = os.read(self._answers, 1 << 16)
            if not chunk:
                raise RuntimeError("Chromium has gone")
            self._buffer += chunk
        frame, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(frame)
        return message


class Page:
    """One tab."""

    def __init__(self, browser: Chromium, target: str, session: str) -> None:
        self._browser = browser
        self._target = target
        self._session = session

    def command(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the result of a DevTools command sent to this tab."""
        return self._browser.command(method, params, session=self._session)

    def goto(self, url: str) -> None:
        """Open `url`."""
        self.command("Page.navigate", {"url": url})

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression (promises are awaited)."""
        reply = self.command(
            "Runtime.evaluate",
            {"expression": expression, "awaitPromise": True, "returnByValue": True},
        )
        if "exceptionDetails" in reply:
            raise RuntimeError(str(reply["exceptionDetails"]))
        return reply["result"].get("value")

    def wait_for(self, expression: str, *, seconds: float = 30.0) -> Any:
        """Return the first truthy value of `expression`.

        Raises: AssertionError, with what the page says, if none comes in time.
        """
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            if time.monotonic() > deadline:
                shown = self.evaluate("document.body.innerText")
                raise AssertionError(f"never true: {expression}\n{self.complaints()}\n{shown}")
            time.sleep(0.02)
        return value

    def press(self, key: str) -> None:
        """Press a key on whatever has the focus: `Enter` or `Tab`."""
        codes = {"Enter": (13, "\r"), "Tab": (9, "")}
        code, text = codes[key]
        for kind in ("keyDown", "keyUp"):
            params = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}
            if kind == "keyDown" and text:
                params["text"] = text
            self.command("Input.dispatchKeyEvent", params)

    def type(self, text: str) -> None:
        """Insert text where the focus is."""
        self.command("Input.insertText", {"text": text})

    def emulate(self, **features: str) -> None:
        """Set CSS media features, such as `prefers_color_scheme="dark"`."""
        listed = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.command("Emulation.setEmulatedMedia", {"features": listed})

    def requests(self) -> list[str]:
        """Return every address this tab has asked for."""
        return [event["request"]["url"] for event in self._events("Network.requestWillBeSent")]

    def complaints(self) -> list[str]:
        """Return console errors and warnings, uncaught exceptions and refusals by the policy."""
        self.evaluate("0")  # a round trip, so that all earlier events have arrived
        said = [str(e["exceptionDetails"]) for e in self._events("Runtime.exceptionThrown")]
        for event in self._events("Runtime.consoleAPICalled"):
            if event["type"] in ("error", "warning", "assert"):
                said.append(str(event["args"]))
        for event in self._events("Log.entryAdded"):
            if event["entry"]["level"] in ("error", "warning"):
                said.append(event["entry"]["text"] + " " + event["entry"].get("url", ""))
        return said

    def screenshot(self, path: Path) -> None:
        """Write the whole page as PNG."""
        shot = self.command("Page.captureScreenshot", {"captureBeyondViewport": True})
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """Close the tab."""
        self._browser.command("Target.closeTarget", {"targetId": self._target})

    def _events(self, method: str) -> list[dict[str, Any]]:
        return [
            event["params"]
            for event in self._browser.events
            if event.get("method") == method and event.get("sessionId") == self._session
        ]


def _spawn(program: str, profile: Path) -> tuple[int, int, int]:
    """Return (command descriptor, answer descriptor, process id) of a browser just started."""
    command_read, command_write = _high_pipe()
    answer_read, answer_write = _high_pipe()
    argv = [program, *FLAGS, f"--user-data-dir={profile}"]
    if os.geteuid() == 0:
        argv.append("--no-sandbox")
    pid = os.posix_spawn(
        program,
        argv,
        {**os.environ, "HOME": str(profile)},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, command_read, 3),
            (os.POSIX_SPAWN_DUP2, answer_write, 4),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ],
        setpgroup=0,
    )
    os.close(command_read)
    os.close(answer_write)
    return command_write, answer_read, pid


def _high_pipe() -> tuple[int, int]:
    """Return a pipe whose ends lie above 3 and 4, which the child's descriptors overwrite."""
    low = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low)
    for end in low:
        os.close(end)
    return high[0], high[1]
