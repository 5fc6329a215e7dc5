"""Logging of workers and beat: structlog, to standard error, as text or JSON, with passwords masked."""

import logging
import sys
from collections.abc import Iterable

import structlog
from structlog.typing import Processor

from config.mask import Mask


def begin_task(task_id: str, **_: object) -> None:
    """Add this task's id to every log line until it ends."""
    structlog.contextvars.bind_contextvars(task_id=task_id)


def end_task(**_: object) -> None:
    """Stop adding the task's id."""
    structlog.contextvars.unbind_contextvars("task_id")


def configure(log_format: str, secrets: Iterable[str] = ()) -> None:
    """Format lines of structlog and of the standard library's `logging` in the same way.

    `log_format`: `console` (coloured in a terminal) or `json`. `secrets`: texts masked in
    every line; unset: only passwords that a URL or a name shows to be one.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # As text, without the values of local variables: one may be a URL with a password.
                structlog.processors.format_exc_info,
                Mask(secrets),
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # At INFO it logs the kind of database each time the migrations are read.
    logging.getLogger("alembic").setLevel(logging.WARNING)
