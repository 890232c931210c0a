"""Make the pictures of the README from the last `polm run`: its report and the two dashboards, in headless Chromium.

    make images            # needs `chromium` in the PATH, e.g. from the Debian package of that name

Each picture is a part of a page, taken once an element of it is there. Nothing that names this machine is in it: the
tag of Prefect's flow run, which holds host and path, is hidden, and so are panels that show nothing of the run.
"""

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from flows import workspace
from flows.services.dashboards import free_port

IMAGES = Path("docs/images")
REPORT = Path(".polm/report/index.html")
PATIENCE = 120.0
"""Seconds that a page, or a server, may take until it shows what the picture is of."""


class Page:
    """One page of the browser, by Chromium's DevTools protocol."""

    def __init__(self, port: int, width: int, height: int, *, dark: bool) -> None:
        """Open an empty page of `width` x `height` CSS pixels; pictures have 1.5 pixels for each."""
        new = urllib.request.Request(f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(new) as answer:
            address = json.load(answer)["webSocketDebuggerUrl"]
        self._socket: ClientConnection = connect(address, max_size=None)
        self._number = 0
        size = {"width": width, "height": height, "deviceScaleFactor": 1.5, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result; events that come in between are dropped."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while (message := json.loads(self._socket.recv(timeout=PATIENCE))).get("id") != self._number:
            pass
        if "error" in message:
            raise SystemExit(f"images: Chromium refuses {method}: {message['error']['message']}")
        result: dict[str, Any] = message["result"]
        return result

    def run(self, script: str) -> Any:
        """Evaluate JavaScript in the page and return its value."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def open(self, url: str, shows: str, settles: float = 4) -> None:
        """Go to an address and wait until the JavaScript expression `shows` is true, then `settles` seconds.

        Lines and bars are drawn, and slide to their places, after their elements are there.
        """
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + PATIENCE
        while not self.run(f"Boolean({shows})"):
            if time.monotonic() > deadline:
                raise SystemExit(f"images: {url} does not show `{shows}` after {PATIENCE:g} s")
            time.sleep(0.2)
        time.sleep(settles)

    def style(self, rules: str) -> None:
        """Add CSS rules to the page."""
        self.run(f"document.head.append(Object.assign(document.createElement('style'), {{textContent: {rules!r}}}))")

    def picture(self, path: Path, left: int, top: int, width: int, height: int) -> None:
        """Write a part of the page, given in CSS pixels, as PNG."""
        clip = {"x": left, "y": top, "width": width, "height": height, "scale": 1}
        data = self.call("Page.captureScreenshot", format="png", clip=clip)["data"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(data))
        sys.stdout.write(f"{path}  {path.stat().st_size / 1000:.0f} kB\n")


def report(page: Page) -> None:
    """Take the first screen of the report: every method on the metric that it is there for."""
    page.open(REPORT.resolve().as_uri(), "document.querySelector('.step')")
    page.picture(IMAGES / "report.png", 0, 0, 1280, 800)


def mlflow(page: Page, server: str, recipe: str) -> None:
    """Take the curves of the stages that learn from rewards, which are the runs with a metric `reward`."""
    query = urllib.parse.urlencode({"experiment_name": f"polm-{recipe}"})
    with urllib.request.urlopen(f"{server}/api/2.0/mlflow/experiments/get-by-name?{query}") as answer:
        experiment = json.load(answer)["experiment"]["experiment_id"]
    view = {
        "searchFilter": "metrics.reward > -1000",
        "orderByKey": "tags.`mlflow.runName`",  # any order but that by time lists the runs without their parent
        "orderByAsc": "true",
        "compareRunsMode": "CHART",
    }
    page.open(f"{server}/health", "true")
    page.run("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
    page.run("localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false')")
    charts = "document.querySelectorAll('svg.main-svg').length"
    search = "[...document.querySelectorAll('input')].find(i => i.placeholder.startsWith('Search metric'))"
    address = f"{server}/#/experiments/{experiment}/runs?{urllib.parse.urlencode(view, quote_via=urllib.parse.quote)}"
    page.open(address, f"{charts} > 3")
    page.run(f"{search}.focus()")
    page.call("Input.insertText", text="^(reward|kl|entropy)$")
    page.run(f"{search}.blur()")
    time.sleep(4)
    page.style(".modebar {display: none !important}")
    page.picture(IMAGES / "mlflow.png", 196, 8, 1236, 650)


def prefect(page: Page, server: str) -> None:
    """Take the last flow run: its stages in time."""
    body = json.dumps({"sort": "START_TIME_DESC", "limit": 1, "flows": {"name": {"any_": ["polm"]}}}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server}/api/flow_runs/filter", data=body, headers=headers)
    with urllib.request.urlopen(request) as answer:
        runs = json.load(answer)
    if not runs:
        raise SystemExit("images: Prefect has no flow run; run `polm run` first")
    page.open(f"{server}/runs/flow-run/{runs[0]['id']}", "document.querySelector('canvas')", settles=20)
    tags = "[...document.querySelectorAll('*')].filter(e => !e.children.length && /^polm:/.test(e.textContent))"
    page.run(f"{tags}.forEach(e => e.parentElement.remove())")
    page.picture(IMAGES / "prefect.png", 260, 10, 1180, 500)


@contextlib.contextmanager
def browser() -> Iterator[int]:
    """Run Chromium and yield the port of its DevTools protocol."""
    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("images: no `chromium` in the PATH; install it, e.g. with `apt install chromium`")
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless=new", "--hide-scrollbars", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
        options += ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium does not start as root with it
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = Path(profile, "DevToolsActivePort")
            yield int(wait(process, lambda: port.read_text() if port.exists() else "", r"(\d+)\n")[0])
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def dashboards() -> Iterator[tuple[str, str]]:
    """Run `polm ui` on free ports and yield the addresses of MLflow and Prefect."""
    ports = ["--mlflow-port", str(free_port()), "--prefect-port", str(free_port())]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([sys.executable, "-m", "flows.cli", "ui", *ports], stdout=output, stderr=output)

        def text() -> str:
            output.seek(0)
            return output.read()

        try:
            addresses = wait(process, text, r"mlflow +(\S+)[\s\S]*prefect +(\S+)")
            yield addresses[0], addresses[1]
        finally:
            process.terminate()
            process.wait()


def wait(process: subprocess.Popen[bytes], text: Callable[[], str], pattern: str) -> tuple[str, ...]:
    """Wait until a program has said something: the groups of `pattern` in `text()`."""
    deadline = time.monotonic() + PATIENCE
    while not (match := re.search(pattern, text())):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"images: {process.args!r} did not start: {text()}")
        time.sleep(0.2)
    return match.groups()


def main() -> None:
    """Make all pictures."""
    workspace.enter()
    if not REPORT.exists():
        raise SystemExit(f"images: no {REPORT}; run `polm run` first")
    with browser() as port:
        report(Page(port, 1280, 800, dark=False))
        with dashboards() as (mlflow_server, prefect_server):
            mlflow(Page(port, 1440, 900, dark=False), mlflow_server, workspace.active_recipe())
            prefect(Page(port, 1440, 900, dark=False), prefect_server)


if __name__ == "__main__":
    main()
