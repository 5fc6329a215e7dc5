"""Which funding sources there are, and in which order a preference tries them (semantics §3.2)."""

from dataclasses import dataclass

from relay_billing.domain.errors import QueryDataError
from relay_billing.domain.funding import FundingSource
from relay_billing.domain.sessions import BillingSession
from relay_billing.domain.subscription_funding import SubscriptionFunding
from relay_billing.domain.wallet_funding import WalletFunding

FUNDING: tuple[FundingSource, ...] = (SubscriptionFunding(), WalletFunding())
"""All sources. Where no preference is given, or an unknown one, it is the first source's `_first`."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A preference, normalised, and the sources it tries in turn."""

    preference: str
    sources: tuple[FundingSource, ...]


def chain_of(preference: str | None, sources: tuple[FundingSource, ...]) -> Chain:
    """Read a preference: `<source>_only` or `<source>_first`; else the first source's `_first` (semantics §3.2)."""
    by_name = {source.name: source for source in sources}
    name, _, order = (preference or "").rpartition("_")
    if name not in by_name or order not in ("first", "only"):
        name, order = sources[0].name, "first"
    source = by_name[name]
    after = by_name.get(source.fallback or "") if order == "first" else None
    return Chain(f"{name}_{order}", (source,) if after is None else (source, after))


def source_of(session: BillingSession, sources: tuple[FundingSource, ...]) -> FundingSource:
    """The source that pays for a session. Raises QueryDataError for one that is not registered here."""
    for source in sources:
        if source.name == session.source:
            return source
    raise QueryDataError(f"session {session.request_id!r} is paid by {session.source!r}, which is not registered")
