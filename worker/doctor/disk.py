"""Free disk, where it can be asked."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from worker.doctor.engines import Kind
from worker.doctor.finding import Finding, Status
from worker.doctor.reading import Reading
from worker.doctor.subject import Subject

LITTLE_BYTES, TOO_LITTLE_BYTES = 5 * 2**30, 512 * 2**20
"""Free space that is worth a word; with which the next migration or busy day may fail."""

_DIRECTORY = {
    Kind.POSTGRESQL: "SHOW data_directory",
    Kind.MARIADB: "SELECT @@datadir",
    Kind.MYSQL: "SELECT @@datadir",
}


def _folder(reading: Reading) -> Path | None:
    """Where the data is on this host; None: it is elsewhere, or the user may not ask."""
    if reading.kind is Kind.SQLITE:
        return Path(str(reading.url.database)).absolute().parent
    if not reading.local:
        return None
    try:
        folder = Path(reading.value(_DIRECTORY[reading.kind]))
        return folder if folder.exists() else None
    except (DBAPIError, OSError):
        # PostgreSQL tells the folder only to privileged users; the system shows it only to some.
        return None


def free(subject: Subject, usage: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage) -> Iterator[Finding]:
    """The free space of the database's file system. `usage`: total, used and free bytes of a folder's."""
    folder = _folder(subject.reading)
    if folder is None:
        yield Finding(Status.GREEN, "can't be asked from here: the database is on another host, or hides its folder")
        return
    _, _, left = usage(folder)
    sentence = f"{left / 2**30:,.1f} GiB free at {folder}"
    if left < LITTLE_BYTES:
        status = Status.RED if left < TOO_LITTLE_BYTES else Status.YELLOW
        yield Finding(status, f"{sentence}: every request adds rows", "Make room, or shorten BILLING_RETENTION_DAYS")
    else:
        yield Finding(Status.GREEN, sentence)
