"""One request, from the hold to the charge, on the database and broker of docs/index.md."""

import time

from sqlalchemy import create_engine

from relay_billing import BillingClient
from relay_billing.schema import tokens, users

DATABASE, BROKER = "sqlite:///var/trial.db", "filesystem://var/trial"
TIMEOUT_S = 30.0

engine = create_engine(DATABASE)
with engine.begin() as connection:
    connection.execute(users.insert().values(id=1, username="ada", quota=2_500_000))
    connection.execute(tokens.insert().values(id=1, user_id=1, remain_quota=2_500_000))

billing = BillingClient(DATABASE, BROKER)
session = billing.pre_consume(request_id="first", user_id=1, token_id=1, quota=1_000, model_name="gpt-4o")
print(f"held {session.pre_consumed_quota} quota of {session.source}, state {session.state}")

session.settle(640)

deadline = time.monotonic() + TIMEOUT_S
while billing.get("first").closed_at is None and time.monotonic() < deadline:
    time.sleep(0.1)
now = billing.get("first")
print(f"charged {now.actual_quota}, state {now.state}")
billing.close()
engine.dispose()
