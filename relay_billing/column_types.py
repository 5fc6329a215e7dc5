"""Types of columns that MySQL and MariaDB need otherwise than PostgreSQL and SQLite."""

from typing import Any

from sqlalchemy import VARBINARY, Dialect, String, Text, TypeDecorator

MYSQL = ("mysql", "mariadb")
"""SQLAlchemy's names of one family of databases."""
BYTES_OF_A_CHARACTER = 4
"""Most bytes that a character takes in UTF-8."""
# Theirs by default would take `A` for `a`, and have three bytes for a character.
_TEXT = "utf8mb4_bin"
_LONG = 2**24
"""Characters from which on a TEXT is a LONGTEXT; a TEXT ends at 64 KiB."""


class _Exact(TypeDecorator[str]):
    """Text kept as its bytes: no collation of theirs tells trailing spaces apart on all versions."""

    impl = VARBINARY
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        """Its bytes."""
        return None if value is None else value.encode()

    def process_result_value(self, value: Any | None, dialect: Dialect) -> str | None:  # noqa: ANN401
        """The text. A driver gives bytes; a relay's own column of another type gives text."""
        return value.decode() if isinstance(value, bytes) else value


def exact(length: int) -> String:
    """Text that is compared character by character: ids, fingerprints, words of ours. `length`: in characters."""
    return String(length).with_variant(_Exact(BYTES_OF_A_CHARACTER * length), *MYSQL)


def words(length: int) -> String:
    """Text that people read, up to `length` characters."""
    return String(length).with_variant(String(length, collation=_TEXT), *MYSQL)


def long_words() -> Text:
    """Text of any length."""
    return Text().with_variant(Text(_LONG, collation=_TEXT), *MYSQL)
