"""What a connection may take, in seconds and bytes."""

IDLE_S = 120.0
"""Seconds that a connection may wait for a request: more than the 90 after which Go's clients close theirs, so that
the caller closes first, and no request meets a connection that closes."""
REQUEST_S = 10.0
"""Seconds within which a request must have come, head and body."""
ANSWER_S = 60.0
"""Seconds within which it must have been answered, and the answer taken; a call to the database has 15."""
MAX_HEAD = 65_536
"""Bytes of a head."""
MAX_BODY = 2**20
"""Bytes of a body: 500 holds have a third of it."""
MAX_DROPPED = 8 * MAX_BODY
"""Bytes that a caller may go on sending after he was refused, until he reads that."""
LOOK_S = 5.0
"""Seconds between looks at a connection: a limit is kept within these. No timer is made for a request."""
MAX_WAITING = 8
"""Requests of one connection that wait behind the one in hand; no more is read then."""
