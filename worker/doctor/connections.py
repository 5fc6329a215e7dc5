"""Whether the server has room for our connections, and lets them rest."""

from collections.abc import Iterator

from worker.doctor.engines import Kind
from worker.doctor.finding import Finding, Status
from worker.doctor.subject import Subject

FULL_SHARE = 0.8
"""Of the connections that there may be: beyond this a busy hour may use up the rest."""
FEWEST_LEFT = 10
"""Connections of one worker and one client of a relay, with what their pools may add."""
SHORTEST_REST_S = 60
"""A server that ends idle connections sooner ends many of them between two requests."""

_MYSQL_USED = "SELECT VARIABLE_VALUE FROM {0}.global_status WHERE VARIABLE_NAME = 'Threads_connected'"
# 0 stands for no limit of the user's own.
_MYSQL_MOST = (
    "SELECT IF(@@max_user_connections > 0, LEAST(@@max_user_connections, @@max_connections), @@max_connections)"
)
_USED = {
    Kind.POSTGRESQL: "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'",
    Kind.MARIADB: _MYSQL_USED.format("information_schema"),
    Kind.MYSQL: _MYSQL_USED.format("performance_schema"),
}
_MOST = {
    Kind.POSTGRESQL: (
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    ),
    Kind.MARIADB: _MYSQL_MOST,
    Kind.MYSQL: _MYSQL_MOST,
}
_REST_S = {
    Kind.POSTGRESQL: (
        # PostgreSQL 13 has no such setting.
        "SELECT coalesce(max(setting::int), 0) / 1000 FROM pg_settings WHERE name = 'idle_session_timeout'"
    ),
    Kind.MARIADB: "SELECT @@wait_timeout",
    Kind.MYSQL: "SELECT @@wait_timeout",
}
"""Seconds after which an idle connection is ended; 0: never."""


def room(subject: Subject) -> Iterator[Finding]:
    """How many connections are left for us."""
    reading = subject.reading
    if reading.kind is Kind.SQLITE:
        return
    most, used = int(reading.value(_MOST[reading.kind])), int(reading.value(_USED[reading.kind]))
    sentence = f"{used:,} of {most:,} connections are in use"
    hint = "Raise max_connections: a worker takes one for each child and one more, a client of a relay two or three"
    if most - used < FEWEST_LEFT:
        yield Finding(Status.RED, f"{sentence}: too few are left for a worker and a relay", hint)
    elif used > most * FULL_SHARE:
        yield Finding(Status.YELLOW, f"{sentence}, more than {FULL_SHARE:.0%}", hint)
    else:
        yield Finding(Status.GREEN, sentence)


def rest(subject: Subject) -> Iterator[Finding]:
    """How long a connection may be idle."""
    statement = _REST_S.get(subject.reading.kind)
    if statement is None:
        return
    seconds = int(subject.reading.value(statement))
    name = "wait_timeout" if subject.reading.mysql else "idle_session_timeout"
    if 0 < seconds < SHORTEST_REST_S:
        sentence = f"{name} is {seconds} s: a call often finds its connection ended, and needs another attempt"
        yield Finding(Status.YELLOW, sentence, "Raise it for our user; minutes or hours are usual")
