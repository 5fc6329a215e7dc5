"""How relays hold and settle today: the ORM way (lock, read, change, commit), and four statements on their own.

The floor beside them is one bare statement through the driver, which decides nothing.
"""

from typing import Any

import psycopg
from sqlalchemy import BigInteger, Engine, String, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    """The naive tables: the same accounts, and a session table with nothing but the hold."""


class User(Base):
    """A wallet."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    quota: Mapped[int] = mapped_column(BigInteger)
    used_quota: Mapped[int] = mapped_column(BigInteger)
    request_count: Mapped[int] = mapped_column(BigInteger)


class Token(Base):
    """An API key."""

    __tablename__ = "tokens"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    remain_quota: Mapped[int] = mapped_column(BigInteger)
    used_quota: Mapped[int] = mapped_column(BigInteger)


class NaiveSession(Base):
    """What is held."""

    __tablename__ = "naive_sessions"
    request_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(BigInteger)
    quota: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16))


def make_tables(engine: Engine) -> None:
    """The one table that is not there."""
    Base.metadata.create_all(engine, [Base.metadata.tables["naive_sessions"]], checkfirst=True)


def orm_hold(engine: Engine, request_id: str, user_id: int, quota: int) -> None:
    """Row locks, read, change, commit."""
    with Session(engine) as session:
        user = session.get_one(User, user_id, with_for_update=True)
        token = session.get_one(Token, user_id, with_for_update=True)
        if user.quota < quota or token.remain_quota < quota:
            raise ValueError(f"user {user_id} is short")
        user.quota -= quota
        token.remain_quota -= quota
        token.used_quota += quota
        session.add(NaiveSession(request_id=request_id, user_id=user_id, quota=quota, state="preconsumed"))
        session.commit()


def orm_settle(engine: Engine, request_id: str, actual: int) -> None:
    """The same for a settle: the session's state is looked at, so that a second one moves nothing."""
    with Session(engine) as session:
        held = session.get_one(NaiveSession, request_id, with_for_update=True)
        if held.state != "preconsumed":
            return
        user = session.get_one(User, held.user_id, with_for_update=True)
        token = session.get_one(Token, held.user_id, with_for_update=True)
        delta = actual - held.quota
        user.quota -= delta
        user.used_quota += actual
        user.request_count += 1
        token.remain_quota -= delta
        token.used_quota += delta
        held.state = "settled"
        session.commit()


def four_statements(engine: Engine, user_id: int, quota: int) -> None:
    """Read user, read token, update token, update user: the relay of the seed. Not atomic, and no session row."""
    of = {"of": user_id, "quota": quota}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        wallet = connection.execute(text("SELECT quota FROM users WHERE id = :of"), of).scalar_one()
        left = connection.execute(text("SELECT remain_quota FROM tokens WHERE id = :of"), of).scalar_one()
        if wallet < quota or left < quota:
            raise ValueError(f"user {user_id} is short")
        taken = "remain_quota = remain_quota - :quota, used_quota = used_quota + :quota"
        connection.execute(text(f"UPDATE tokens SET {taken} WHERE id = :of"), of)
        connection.execute(text("UPDATE users SET quota = quota - :quota WHERE id = :of"), of)


BARE = """
    WITH t AS (
        UPDATE tokens SET remain_quota = remain_quota - %(quota)s, used_quota = used_quota + %(quota)s
        WHERE id = %(of)s AND remain_quota >= %(quota)s RETURNING id
    ), u AS (
        UPDATE users SET quota = quota - %(quota)s WHERE id = %(of)s AND quota >= %(quota)s RETURNING id
    )
    INSERT INTO naive_sessions SELECT %(request_id)s, %(of)s, %(quota)s, 'preconsumed' FROM t, u
"""


def bare_statement(connection: psycopg.Connection[Any], request_id: str, user_id: int, quota: int) -> None:
    """The floor: one statement through the driver."""
    connection.execute(BARE, {"request_id": request_id, "of": user_id, "quota": quota}, prepare=True)
