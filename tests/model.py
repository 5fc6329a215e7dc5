"""A small model of the contract, written apart from the product: plain numbers, no database, no classes of it.

One user with a wallet, a token and two subscriptions on a daily plan. It answers in words: the outcome of a job, the
code of a refusal, or `ok`.
"""

from dataclasses import dataclass, field

DAY = 86_400
HOLD_TTL = 3_600


@dataclass
class Hold:
    """One session."""

    quota: int
    preference: str
    playground: bool
    state: str
    source: str
    held: int
    on_token: int
    trusted: bool
    sub: int | None
    period: tuple[int, int]
    at: int
    actual: int = 0
    parked: bool = False
    intent: tuple[str, int] | None = None
    closed: int | None = None


@dataclass
class Sub:
    """One subscription."""

    total: int
    end: int
    start: int
    used: int = 0
    last: int = 0
    next: int = 0
    status: str = "active"
    spills: bool = True

    def same(self, period: tuple[int, int], held: int, external: bool) -> bool:
        """Whether the period of a hold goes on; a calendar of somebody else's is known by both boundaries (12)."""
        if not external:
            return period[0] == self.last
        begun = period[0] == (self.last or self.start) and period[1] in (self.next, 0)
        return begun and self.used >= held

    def turned(self, now: int) -> tuple[int, int, int]:
        """Used, last and next boundary, once a due reset is taken into account."""
        begin = self.last or self.start
        due = self.next or (begin // DAY + 1) * DAY
        if due > self.end:
            return self.used, begin, 0
        if due > now:
            return self.used, begin, due
        latest = min(now, self.end) // DAY * DAY
        following = latest + DAY
        return 0, latest, following if following <= self.end else 0


@dataclass
class Model:
    """What the accounts and sessions must be."""

    wallet: int
    token: int | None
    subs: dict[int, Sub]
    trust: int
    overflow: str
    expiry: str
    limit: int
    now: int
    external: bool = False
    user_may: bool = True
    token_may: bool = True
    sessions: dict[str, Hold] = field(default_factory=dict)
    references: dict[str, int] = field(default_factory=dict)

    def active(self) -> list[int]:
        """Usable subscriptions in the order in which they are tried."""
        usable = [of for of, sub in self.subs.items() if sub.status == "active" and sub.end > self.now]
        return sorted(usable, key=lambda of: (self.subs[of].end, of))

    def pre_consume(self, name: str, quota: int, preference: str, playground: bool, force: bool) -> str:
        """Semantics 3."""
        if name in self.sessions:
            known = self.sessions[name]
            same = (known.quota, known.preference, known.playground) == (quota, preference, playground)
            return "ok" if same else "idempotency_conflict"
        if not self.user_may:
            return "query_data_error"
        order = {
            "wallet_only": ["wallet"],
            "wallet_first": ["wallet", "subscription"],
            "subscription_only": ["subscription"],
            "subscription_first": ["subscription", "wallet"] if self.active() else ["wallet"],
        }[preference]
        answer = ""
        for source in order:
            take = self._wallet if source == "wallet" else self._subscription
            answer = take(name, quota, preference, playground, force)
            if answer != "insufficient_user_quota":
                return answer
            if source == "subscription" and not all(self.subs[of].spills for of in self.active()):
                return answer
        return answer

    def _token_short(self, playground: bool, hold: int) -> bool:
        if playground or (self.token is None and hold == 0):
            return False
        return self.token is None or not self.token_may or (hold > 0 and self.token < hold)

    def _wallet(self, name: str, quota: int, preference: str, playground: bool, force: bool) -> str:
        if self.wallet <= 0 or self.wallet < quota:
            return "insufficient_user_quota"
        rich = self.token is not None and self.token_may and self.token > self.trust
        trusted = 0 < self.trust < self.wallet and rich and not force and not playground
        hold = 0 if trusted else quota
        if self._token_short(playground, hold):
            return "pre_consume_token_quota_failed"
        self.wallet -= hold
        self._open(name, quota, preference, playground, "wallet", hold, trusted, None, (0, 0))
        return "ok"

    def _subscription(self, name: str, quota: int, preference: str, playground: bool, force: bool) -> str:
        hold = max(quota, 1)
        if self._token_short(playground, hold):
            return "pre_consume_token_quota_failed"
        for of in self.active():
            sub = self.subs[of]
            used, last, following = (sub.used, sub.last, sub.next) if self.external else sub.turned(self.now)
            if sub.total and sub.total - used < hold:
                continue
            sub.used, sub.last, sub.next = used + hold, last, following
            self._open(name, quota, preference, playground, "subscription", hold, False, of, self._period(sub))
            return "ok"
        return "insufficient_user_quota"

    def _period(self, sub: Sub) -> tuple[int, int]:
        return (sub.last or sub.start, sub.next) if self.external else (sub.last, 0)

    def _open(
        self, name: str, quota: int, preference: str, playground: bool, source: str, hold: int, trusted: bool,
        sub: int | None, period: tuple[int, int],
    ) -> None:  # fmt: skip
        on_token = 0 if playground else hold
        if on_token:
            self.token = (self.token or 0) - on_token
        self.sessions[name] = Hold(
            quota, preference, playground, "preconsumed", source, hold, on_token, trusted, sub, period, self.now
        )

    def reserve(self, name: str, target: int) -> str:
        """Semantics 4."""
        each = self.sessions.get(name)
        if each is None:
            return "unknown_session"
        extra = target - each.held
        if each.state != "preconsumed" or each.trusted or extra <= 0:
            return "ok"
        if not self.user_may:
            return "query_data_error"
        if each.source == "wallet" and (self.wallet <= 0 or self.wallet < extra):
            return "insufficient_user_quota"
        if self._token_short(each.playground, extra):
            return "pre_consume_token_quota_failed"
        if each.sub is not None:
            sub = self.subs[each.sub]
            if not sub.same(each.period, each.held, self.external) or (sub.total and sub.total - sub.used < extra):
                return "insufficient_user_quota"
            sub.used += extra
        else:
            self.wallet -= extra
        each.held = target
        if not each.playground:
            self.token = (self.token or 0) - extra
            each.on_token += extra
        return "ok"

    def settle(self, name: str, actual: int) -> str:
        """Semantics 5."""
        each = self.sessions.get(name)
        if each is None:
            return "unknown_session"
        if each.state == "settled":
            return "duplicate"
        if each.state == "refunded" or each.intent not in (None, ("settle", actual)):
            return "conflict"
        late = each.state == "expired"
        delta = actual - (0 if late else each.held)
        if self.limit and actual > self.limit:
            return self._park(each)
        if each.sub is not None:
            sub = self.subs[each.sub]
            over = delta - (sub.total - sub.used)
            if delta > 0 and sub.total and over > 0 and self.overflow == "reject":
                return self._park(each)
            if delta > 0 and sub.total and over > 0 and self.overflow == "wallet":
                to_wallet = 0 if each.preference == "subscription_only" or not sub.spills else min(over, delta)
                self.wallet -= to_wallet
                sub.used += delta - to_wallet
            else:
                self._use(each, delta)
        else:
            self.wallet -= delta
        if not each.playground and self.token is not None:
            self.token -= actual - (0 if late else each.on_token)
        each.state, each.actual, each.parked, each.closed = "settled", actual, False, self.now
        return "late" if late else "applied"

    def _use(self, each: Hold, delta: int) -> None:
        sub = self.subs[each.sub or 0]
        if delta > 0:
            sub.used += delta
        elif sub.same(each.period, each.held, self.external):
            sub.used = max(0, sub.used + delta)

    def _park(self, each: Hold) -> str:
        each.parked, each.intent = True, None
        return "parked"

    def refund(self, name: str) -> str:
        """Semantics 6."""
        each = self.sessions.get(name)
        if each is None:
            return "unknown_session"
        if each.state in ("settled", "refunded"):
            return "duplicate"
        if each.intent is not None and each.intent[0] != "refund":
            return "conflict"
        if each.state == "preconsumed":
            self._give_back(each)
        each.state, each.parked, each.closed = "refunded", False, self.now
        return "applied"

    def _give_back(self, each: Hold) -> None:
        if each.sub is not None:
            self._use(each, -each.held)
        else:
            self.wallet += each.held
        if self.token is not None:
            self.token += each.on_token

    def intend(self, name: str, intent: tuple[str, int]) -> None:
        """Semantics 9: the first intent of an open session wins."""
        each = self.sessions.get(name)
        if each is not None and each.intent is None and each.state in ("preconsumed", "expired"):
            each.intent, each.parked = intent, False

    def apply_intents(self) -> None:
        """Semantics 9, all of them together."""
        for name, each in self.sessions.items():
            if each.intent is not None and each.state in ("preconsumed", "expired"):
                kind, quota = each.intent
                self.settle(name, quota) if kind == "settle" else self.refund(name)

    def expire(self) -> None:
        """Semantics 8."""
        for each in self.sessions.values():
            old = self.now > each.at + HOLD_TTL
            if each.state != "preconsumed" or each.parked or each.intent is not None or not old:
                continue
            each.closed = self.now
            if self.expiry == "charge":
                each.state, each.actual = "settled", each.held
            else:
                self._give_back(each)
                each.state = "expired"

    def top_up(self, reference: str, quota: int) -> str:
        """Semantics 10: once for each reference."""
        if reference in self.references:
            return "ok" if self.references[reference] == quota else "idempotency_conflict"
        self.references[reference] = quota
        self.wallet += quota
        return "ok"

    def purge(self, retention_s: int) -> int:
        """Semantics 10: what was closed long ago is forgotten, unless somebody still waits for it."""
        before = self.now - retention_s
        old = [
            name
            for name, each in self.sessions.items()
            if each.at < before and each.closed is not None and each.closed < before and not each.parked
            and (each.state in ("settled", "refunded") or each.intent is None)
        ]  # fmt: skip
        for name in old:
            del self.sessions[name]
        return len(old)

    def reset(self) -> None:
        """Semantics 7, the periodic job."""
        for sub in () if self.external else self.subs.values():
            if sub.status == "active" and sub.end <= self.now:
                sub.status = "expired"
            elif sub.status == "active":
                used, last, following = sub.turned(self.now)
                if last != (sub.last or sub.start):
                    sub.used, sub.last, sub.next = used, last, following
