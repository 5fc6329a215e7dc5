"""The wallet as a funding source (semantics §3.3, §3.4)."""

from relay_billing.domain.account_type import AccountType
from relay_billing.domain.entries import EntryKind, Movement
from relay_billing.domain.errors import InsufficientUserQuota, QueryDataError
from relay_billing.domain.funding import HoldPlan, Taken
from relay_billing.domain.outcomes import ParkReason
from relay_billing.domain.parked import Parked
from relay_billing.domain.requests import PreConsume
from relay_billing.domain.sessions import BillingSession
from relay_billing.domain.worksheet import Worksheet


class WalletFunding:
    """The user's own balance (semantics §3.3, §3.4)."""

    name = "wallet"
    fallback = "subscription"

    def offered(self, sheet: Worksheet, user_id: int) -> bool:
        """A wallet is always tried."""
        return True

    def plan(self, sheet: Worksheet, request: PreConsume, rich_token: bool) -> HoldPlan:
        """Refuse an empty or short wallet; a rich one is trusted."""
        self._check(sheet, request.user_id, request.quota)
        return HoldPlan(0, trusted=True) if rich_token and self._trusted(sheet, request) else HoldPlan(request.quota)

    def take(self, sheet: Worksheet, request: PreConsume, plan: HoldPlan) -> Taken:
        """Take the hold from the wallet."""
        before = sheet.wallets[request.user_id].quota
        movement = Movement(request.request_id, AccountType.WALLET, request.user_id, EntryKind.PRE_CONSUME, -plan.hold)
        return Taken((movement,), {"user_quota": before})

    def check_raise(self, sheet: Worksheet, session: BillingSession, extra: int) -> None:
        """Refuse an empty or short wallet."""
        self._check(sheet, session.user_id, extra)

    def take_raise(
        self, sheet: Worksheet, session: BillingSession, extra: int, kind: EntryKind, step: int
    ) -> tuple[Movement, ...]:
        """Take the rest from the wallet."""
        return (Movement(session.request_id, AccountType.WALLET, session.user_id, kind, -extra, step),)

    def settle(self, sheet: Worksheet, session: BillingSession, delta: int) -> tuple[Movement, ...]:
        """The wallet pays whatever was used, below 0 if need be."""
        self._exists(sheet, session)
        return (Movement(session.request_id, AccountType.WALLET, session.user_id, EntryKind.SETTLE, -delta),)

    def give_back(self, sheet: Worksheet, session: BillingSession, kind: EntryKind) -> tuple[Movement, ...]:
        """The whole hold goes back."""
        self._exists(sheet, session)
        held = session.pre_consumed_quota
        return (Movement(session.request_id, AccountType.WALLET, session.user_id, kind, held),)

    def _check(self, sheet: Worksheet, user_id: int, needed: int) -> None:
        wallet = sheet.wallets.get(user_id)
        if wallet is None:
            raise QueryDataError(f"user {user_id} does not exist", 0, needed)
        if wallet.quota <= 0:
            raise InsufficientUserQuota(user_id, self.name, wallet.quota, needed, "the wallet is empty")
        if wallet.quota < needed:
            raise InsufficientUserQuota(user_id, self.name, wallet.quota, needed)

    def _trusted(self, sheet: Worksheet, request: PreConsume) -> bool:
        policy = sheet.policy
        if policy.trust_quota == 0 or request.force_pre_consume or request.playground:
            return False
        if sheet.wallets[request.user_id].quota <= policy.trust_quota:
            return False
        return not policy.trust_max_inflight or sheet.trusted_open.get(request.user_id, 0) < policy.trust_max_inflight

    def _exists(self, sheet: Worksheet, session: BillingSession) -> None:
        if session.user_id not in sheet.wallets:
            raise Parked(ParkReason.ACCOUNT_MISSING, f"user {session.user_id} is gone")
