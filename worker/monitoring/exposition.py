"""A worker's `/metrics`, the counters of its processes and gauges read at the scrape, and its `/ready`."""

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from config.settings import Settings
from worker.monitoring.gauges import Own, SnapshotCollector
from worker.patches.count_files import ProcessesCollector

log = structlog.get_logger("worker")

StartResponse = Callable[..., object]


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002, the name is the library's
        """Write nothing: scrapes come every few seconds."""


def serve(settings: Settings, folder: Path, own: Own) -> bool:
    """Serve `/metrics` and `/ready` from a thread. False if the port is taken: this is logged, and jobs go on.

    `/ready` is 200 while this worker takes jobs and sweeps come through, else 503 with the reason.
    """
    registry = CollectorRegistry()
    ProcessesCollector(registry, folder)
    collector = SnapshotCollector(settings, own)
    registry.register(collector)
    metrics = make_wsgi_app(registry)

    def answer(environ: dict[str, object], start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/metrics":
            answered: Iterable[bytes] = metrics(environ, start_response)
            return answered
        status, body = "404 Not Found", b"/metrics or /ready\n"
        if environ["PATH_INFO"] == "/ready":
            reason = collector.unready()
            status, body = "200 OK", b"consuming\n"
            if reason is not None:
                status, body = "503 Service Unavailable", f"{reason}\n".encode()
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [body]

    address, port = settings.metrics_address, settings.metrics_port
    try:
        server = make_server(address, port, answer, ThreadingWSGIServer, handler_class=_Silent)
    except OSError as error:
        log.error(
            "no metrics: the port can't be opened, give each worker of a host its own BILLING_METRICS_PORT, or 0",
            address=address,
            port=port,
            error=error.strerror,
        )
        return False
    # A child that is forked later must not keep the port when this process has ended.
    os.register_at_fork(after_in_child=server.socket.close)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    log.info("metrics", url=f"http://{address}:{port}/metrics")
    return True
