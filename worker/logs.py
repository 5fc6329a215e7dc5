"""How workers write their log: structlog, to standard error, for people or as JSON, and never a password."""

import logging
import sys
from collections.abc import Iterable

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from worker.masking import masked, masked_value


class Mask:
    """The last processor before a line is written: passwords go, those in the text of exceptions too.

    `secrets` are those of the settings: they are masked wherever they stand.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # The longest first: one may be a part of another.
        self._secrets = tuple(sorted(secrets, key=len, reverse=True))

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """The same line, masked."""
        return {masked(str(key), self._secrets): masked_value(value, self._secrets) for key, value in event.items()}


def begin_task(task_id: str, **_: object) -> None:
    """Every line from here on is about this task."""
    structlog.contextvars.bind_contextvars(task_id=task_id)


def end_task(**_: object) -> None:
    """The task is over."""
    structlog.contextvars.unbind_contextvars("task_id")


def configure(log_format: str, secrets: Iterable[str] = ()) -> None:
    """Send structlog's and the standard library's lines the same way.

    `log_format`: `console` (coloured in a terminal) or `json`. `secrets`: what is never written.
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
                # As text, without the values of local variables: a URL among them holds a password.
                structlog.processors.format_exc_info,
                Mask(secrets),
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # It tells at every look at the migrations which database it looks at.
    logging.getLogger("alembic").setLevel(logging.WARNING)
