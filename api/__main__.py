"""`python -m api`: one door, on BILLING_API_ADDRESS and BILLING_API_PORT."""

import resource
import signal

import uvicorn

from api.app import make_app
from api.draining import FINISH_S
from api.protocol import Connection
from config import startup
from config.refusal import ends_the_process


@ends_the_process()
def main() -> None:
    """Serve until a signal comes; then the exit code is 0."""
    app = make_app()
    settings = startup.settings()
    # Each connection is a file; the soft limit is often 1,024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # When it has ended by a signal, uvicorn raises that signal once more: it must not kill the process then.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    uvicorn.run(
        app,
        host=settings.api_address,
        port=settings.api_port,
        loop="uvloop",
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=FINISH_S,
    )


if __name__ == "__main__":
    main()
