"""The status page, the probes and the metrics, by the standard library's HTTP server. GET only, no script."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from n2q_edge.errors import UsageError
from n2q_edge.service.page import render
from n2q_edge.service.settings import Settings
from n2q_edge.service.status import Status, look

log = logging.getLogger("n2q_edge.supervisor")

REFRESH_S = 5
FILE = re.compile(r"/series/([0-9a-f]{24})/(r\d{3,})/([A-Za-z0-9_]+\.(?:html|json|csv|png|svg))")
TYPES = {
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "png": "image/png",
    "svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class StatusServer:
    """Serves in threads of its own. A context manager."""

    def __init__(self, settings: Settings, alive: Callable[[], dict[str, bool]]) -> None:
        """Listen.

        Raises:
            UsageError: the address cannot be used.
        """
        self._settings, self._alive = settings, alive
        address = (settings.status.host, settings.status.port)
        try:
            self._server = ThreadingHTTPServer(address, _handler(self))
        except OSError as error:
            raise UsageError(
                f"the status page cannot listen on {address[0]}:{address[1]}: {error.strerror}; "
                "choose another with status.port"
            ) from None
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """Of the page."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}/"

    def status(self) -> Status:
        """The node at this moment."""
        return look(self._settings, self._alive)

    def ready(self) -> bool:
        """Whether it can do its work."""
        return self.status().ready

    def respond(self, path: str) -> tuple[int, str, bytes]:
        """Status code, media type and content for a path."""
        if path == "/":
            return 200, TYPES["html"], render(self.status(), self._settings).encode("utf-8")
        if path == "/healthz":
            running = self._alive()
            return (200 if all(running.values()) else 503), TYPES["json"], _json({"processes": running})
        if path == "/readyz":
            status = self.status()
            return (
                (200 if status.ready else 503),
                TYPES["json"],
                _json({"ready": status.ready, **status.checks}),
            )
        if path == "/metrics":
            return 200, *exposition(self.status(), self._alive())
        if match := FILE.fullmatch(path):
            return self._file(*match.groups())
        return 404, "text/plain", b"not found\n"

    def _file(self, key: str, revision: str, name: str) -> tuple[int, str, bytes]:
        """A file of a result; the pattern leaves no way out of the folder."""
        path = Path(self._settings.data) / "results" / key / revision / name
        try:
            return 200, TYPES[name.rpartition(".")[2]], path.read_bytes()
        except OSError:
            return 404, "text/plain", b"this result is no longer kept\n"

    def __enter__(self) -> StatusServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _json(content: Any) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _handler(server: StatusServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10
        server_version = "n2q-edge"
        sys_version = ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            try:
                code, kind, content = server.respond(path)
            except Exception:
                log.exception("the status page failed")
                code, kind, content = 500, "text/plain", b"failed; the log says why\n"
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            for name, value in HEADERS.items():
                self.send_header(name, value)
            if path == "/":
                self.send_header("Refresh", str(REFRESH_S))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, *_: object) -> None:
            """Paths are not logged."""

    return Handler


def exposition(status: Status, running: dict[str, bool]) -> tuple[str, bytes]:
    """Media type and text for Prometheus: the counters of all processes, and what holds at this moment."""
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.multiprocess import MultiProcessCollector

    class Now:
        def collect(self) -> Iterator[GaugeMetricFamily]:
            yield _gauge("free_bytes", "Free space of the spool's disk", status.free_mb * 1e6)
            yield _gauge(
                "reserve_bytes", "Free space below which nothing is accepted", status.reserve_mb * 1e6
            )
            yield _gauge("waiting_slices", "Slices received and not assessed", status.waiting)
            yield _gauge("associations_open", "Associations open", len(status.associations))
            yield _gauge("ready", "1 if receiving, assessing, delivering and with enough disk", status.ready)
            yield _gauge("status_time_seconds", "When this was looked at", time.time())
            up = GaugeMetricFamily("n2q_edge_up", "1 if the process runs", labels=["process"])
            for name, runs in running.items():
                up.add_metric([name], float(runs))
            yield up
            for name, help_text in (("pending", "Deliveries that wait"), ("dead", "Dead letters")):
                family = GaugeMetricFamily(f"n2q_edge_deliveries_{name}", help_text, labels=["destination"])
                for each in status.deliveries:
                    family.add_metric([each.name], getattr(each, name))
                yield family

    def _gauge(name: str, help_text: str, value: float) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"n2q_edge_{name}", help_text, value=float(value))

    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(Now())
    return CONTENT_TYPE_LATEST, generate_latest(registry)
