"""The last log processor: masks secrets in every line."""

from collections.abc import Iterable

from structlog.typing import EventDict, WrappedLogger

from config.masking import masked, masked_value


class Mask:
    """Masks passwords before a line is written, those in the text of exceptions too.

    `secrets`: those of the settings, masked wherever they occur; unset: none.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # The longest first: one may be a part of another.
        self._secrets = tuple(sorted(secrets, key=len, reverse=True))

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """The same line, masked."""
        return {masked(str(key), self._secrets): masked_value(value, self._secrets) for key, value in event.items()}
