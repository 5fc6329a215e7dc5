"""`shadow report`: what a shadow has judged, beside what the relay has charged."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from config import startup
from config.refusal import Refusal
from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.money import usd
from relay_billing.store.drivers import engine_of
from relay_billing.store.drivers import shown as shown_url
from relay_billing.store.failures import cause_of
from worker.cli.options import Json
from worker.cli.shown import table_of
from worker.cli.times import moment_ms
from worker.shadow.logs import TABLE, has_log
from worker.shadow.plot import can_plot, plot
from worker.shadow.report import Report, Total, compare
from worker.shadow.verdicts import Pair, Verdict
from worker.words import shown_time

app = typer.Typer(help="What a shadow has judged, beside what the relay has charged.", no_args_is_help=True)

MAX_LISTED = 10_000


@app.callback()
def _group() -> None:
    """What a shadow has judged, beside what the relay has charged."""


@app.command("report")
def _report(
    since: Annotated[str, typer.Option(help="Requests since 30m, 12h, 7d ago or a date.")] = "1d",
    logs_database: Annotated[
        str | None, typer.Option(metavar="URL", help="Where the relay's table `logs` is; unset: in our database.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Requests to list, those that differ most.", min=0, max=MAX_LISTED)] = 10,
    plot_file: Annotated[Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw it, too.")] = None,
    as_json: Json = False,
) -> None:
    """Compare a shadow's sessions with what the relay's log says was charged. Exits 0, whatever it finds.

    Example: python -m worker shadow report --since 1d --plot shadow.png
    """
    settings = startup.settings()
    if plot_file is not None:
        can_plot(plot_file)
    since_ms, now_ms = moment_ms("--since", since) or 0, time.time_ns() // 1_000_000
    startup.check_database(settings)
    ours = engine_of(settings.database_url)
    try:
        with _their_log(ours, settings.database_url, logs_database) as theirs:
            found = compare(ours, theirs, since_ms, now_ms, settings.hold_ttl * 1000, limit)
    except SQLAlchemyError as error:
        raise Refusal(f"the sessions or the log can't be read: {cause_of(error)}") from None
    finally:
        ours.dispose()
    if plot_file is not None:
        plot(found, plot_file)
    if as_json:
        print(json.dumps(_values(found)))
    else:
        _print(found)


@contextmanager
def _their_log(ours: Engine, our_url: str, url: str | None) -> Iterator[Engine | None]:
    """The database of their log; None: none was named, and ours has no such table."""
    if url is None:
        yield ours if has_log(ours, shown_url(our_url)) else None
        return
    try:
        engine = engine_of(url)
        parsed = make_url(url)
    except (InvalidRequest, ModuleNotFoundError) as error:
        problem = error.problem if isinstance(error, InvalidRequest) else f"its driver is not installed: {error}"
        raise Refusal(f"--logs-database: {problem}") from None
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        # Opening it would make an empty one.
        raise Refusal(f"--logs-database: there is no file {parsed.database}")
    try:
        try:
            found = has_log(engine, shown_url(url))
        except SQLAlchemyError as error:
            raise Refusal(f"--logs-database: {shown_url(url)} can't be read: {cause_of(error)}") from None
        if not found:
            raise Refusal(f"--logs-database: {shown_url(url)} has no table {TABLE}")
        yield engine
    finally:
        engine.dispose()


def _total(total: Total) -> dict[str, Any]:
    return {
        "requests": total.requests,
        "ours": total.ours,
        "ours_usd": usd(total.ours),
        "theirs": total.theirs,
        "theirs_usd": usd(total.theirs),
        "difference": total.difference,
        "difference_usd": usd(total.difference),
        "overdrawn": total.overdrawn,
    }


def _request(found: Verdict, pair: Pair) -> dict[str, Any]:
    return {
        "request_id": pair.request_id,
        "verdict": found.value,
        "user_id": pair.user_id,
        "at": pair.at,
        "ours": pair.ours,
        "theirs": pair.theirs,
        "difference": pair.difference,
        "funds": pair.funds,
    }


def _values(found: Report) -> dict[str, Any]:
    return {
        "from": found.from_ms,
        "to": found.to_ms,
        "log": found.readable,
        "rows_without_request_id": found.unnamed,
        "verdicts": {each.value: _total(total) for each, total in found.totals.items()},
        "requests": [_request(*each) for each in found.listed],
    }


def _print(found: Report) -> None:
    if not found.asked:
        print(f"no shadow session and no refusal since {shown_time(found.from_ms)} UTC: is BILLING_SHADOW on?")
    console = Console()
    console.print(_verdicts(found))
    overdrawn = found.totals[Verdict.REFUSED].overdrawn
    if overdrawn:
        print(f"{overdrawn:,} of those that we would have refused overdrew, too")
    if found.unnamed:
        print(f"{found.unnamed:,} rows of their log have no request id: nobody can say what they are of")
    if not found.readable:
        print(f"there is no table {TABLE} here, so this is our side alone; --logs-database URL says where it is")
    if found.listed:
        console.print(_listed(found))


def _verdicts(found: Report) -> Table:
    title = f"Shadow and relay, {shown_time(found.from_ms)} to {shown_time(found.to_ms)} UTC"
    # The words count as an amount here: they are not to be broken, whatever the width.
    table = table_of(title, (), ("verdict", "requests", "ours", "theirs", "difference"))
    table.columns[0].justify = "left"
    for each, total in found.totals.items():
        if each is Verdict.NOT_COMPARED and found.readable:
            continue
        sums = (f"{total.ours:,}", f"{total.theirs:,}", f"{total.difference:+,}")
        dollars = (usd(total.ours), usd(total.theirs), usd(total.difference))
        both = (f"{quota}\n{worth}" for quota, worth in zip(sums, dollars, strict=True))
        table.add_row(each.words, f"{total.requests:,}", *both)
    return table


def _listed(found: Report) -> Table:
    table = table_of("Requests that differ most", ("request", "at (UTC)", "user", "verdict"), ("we", "they", "USD"))
    for each, pair in found.listed:
        user = "" if pair.user_id is None else str(pair.user_id)
        sides = ("" if side is None else f"{side:,}" for side in (pair.ours, pair.theirs))
        table.add_row(pair.request_id, shown_time(pair.at), user, each.words, *sides, usd(pair.difference))
    return table
