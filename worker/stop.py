"""The end of a command that goes on until somebody ends it."""

import signal


class Stop:
    """Heeds signals as they come, or at the next `check` where Python has swallowed the KeyboardInterrupt.

    It does so when a signal comes while an object is collected, which SQLAlchemy and kombu have happen at every look.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        """Take over the handlers of `signals`, for as long as the process lives."""
        self._asked = False
        for each in signals:
            signal.signal(each, self._heard)

    def _heard(self, *_: object) -> None:
        self._asked = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt where a signal has come."""
        if self._asked:
            raise KeyboardInterrupt
