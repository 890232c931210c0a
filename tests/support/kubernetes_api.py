"""A few paths of the Kubernetes API over HTTP, answered from objects that are written here. No cluster is behind it.

A Job that is created gets a pod; its script runs as a process of this machine, and its output is the pod's log.
"""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: test
contexts: [{{name: test, context: {{cluster: test, user: test}}}}]
clusters: [{{name: test, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: test, user: {{}}}}]
"""


class Cluster:
    """What was asked of the API, and how it answers."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        """Method, path and body of each request."""
        self.jobs: dict[str, dict[str, Any]] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.waiting: dict[str, str] | None = None
        """State of a container that does not start; None: it starts."""
        self.condition: dict[str, str] | None = None
        """Condition of every pod."""
        self.lost = False
        """Whether the pods are gone."""

    def create(self, job: dict[str, Any]) -> None:
        name = job["metadata"]["name"]
        self.jobs[name] = job
        if self.waiting is None:
            command = job["spec"]["template"]["spec"]["containers"][0]["command"]
            self.processes[name] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def delete(self, name: str) -> None:
        del self.jobs[name]
        if process := self.processes.get(name):
            process.terminate()
            process.wait()

    def pod(self, name: str) -> dict[str, Any]:
        status: dict[str, Any] = {"phase": "Pending" if self.waiting else "Running", "conditions": []}
        if self.waiting:
            container = {"name": "stage", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
            status["containerStatuses"] = [container | {"state": {"waiting": self.waiting}}]
        if self.condition:
            status["conditions"] = [self.condition]
        return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": f"{name}-pod"}, "status": status}


def _handler(cluster: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def answer(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def note(self) -> tuple[list[str], Any]:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            cluster.requests.append((self.command, self.path, body))
            return self.path.split("?")[0].strip("/").split("/"), body

        def do_POST(self) -> None:
            _, job = self.note()
            if job["metadata"]["labels"].get("refuse"):
                self.answer(403, {"kind": "Status", "message": "no"})
                return
            cluster.create(job)
            self.answer(201, job)

        def do_DELETE(self) -> None:
            words, _ = self.note()
            cluster.delete(words[-1])
            self.answer(200, {"kind": "Status", "status": "Success"})

        def do_GET(self) -> None:
            words, _ = self.note()
            if words[-1] == "log":
                process = cluster.processes[words[-2].removesuffix("-pod")]
                assert process.stdout
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                while said := os.read(process.stdout.fileno(), 65_536):
                    self.wfile.write(f"{len(said):x}\r\n".encode() + said + b"\r\n")
                self.wfile.write(b"0\r\n\r\n")
            elif words[-1] == "pods":
                name = self.path.split("job-name%3D")[1].split("&")[0]
                self.answer(200, {"kind": "PodList", "apiVersion": "v1", "items": [cluster.pod(name)]})
            elif "jobs" in words:
                found = cluster.jobs.get(words[-1])
                self.answer(200 if found else 404, found or {"kind": "Status", "code": 404})
            elif cluster.lost:
                self.answer(404, {"kind": "Status", "code": 404})
            else:
                self.answer(200, cluster.pod(words[-1].removesuffix("-pod")))

    return Handler


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Cluster, Path]]:
    """Serve the API on loopback; gives what it was asked, and a kubeconfig for it in `folder`."""
    cluster = Cluster()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(cluster))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    path = folder / "kubeconfig"
    path.write_text(KUBECONFIG.format(port=server.server_address[1]))
    try:
        yield cluster, path
    finally:
        for process in cluster.processes.values():
            process.terminate()
            process.wait()
            if process.stdout:
                process.stdout.close()
        server.shutdown()
        server.server_close()
        thread.join()
