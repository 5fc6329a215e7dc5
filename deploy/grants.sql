-- What the database roles of relays, HTTP doors and workers may do; PostgreSQL 13 or later.
--
-- Run it as the owner of the tables, who runs `python -m worker migrate` too, after each migration:
--     psql --set ON_ERROR_STOP=1 --single-transaction --file deploy/grants.sql
-- It may be run any number of times. Then give each process a login of its own:
--     CREATE ROLE relay1 LOGIN PASSWORD '...' IN ROLE billing_relay;
--     CREATE ROLE api1 LOGIN PASSWORD '...' IN ROLE billing_api;
--     CREATE ROLE worker1 LOGIN PASSWORD '...' IN ROLE billing_worker;
-- The tables are taken to be in the schema `public`.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'billing_relay') THEN
        CREATE ROLE billing_relay NOLOGIN;
    END IF;
    -- An HTTP door is a relay that looks up its callers' keys.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'billing_api') THEN
        CREATE ROLE billing_api NOLOGIN;
    END IF;
    GRANT billing_relay TO billing_api;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'billing_worker') THEN
        CREATE ROLE billing_worker NOLOGIN;
    END IF;
    -- The owner repairs by hand what workers do; a superuser has every role already.
    IF NOT pg_has_role(current_user, 'billing_worker', 'USAGE') THEN
        EXECUTE format('GRANT billing_worker TO %I', current_user);
    END IF;
END $$;

-- Neither makes, alters or drops a table. (PostgreSQL before 15 lets everybody make some.)
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO billing_relay, billing_worker;

-- Account tables: balances alone, by column. Keys, passwords and whatever else the relay keeps there are not read.
GRANT SELECT (id, username, quota, used_quota, request_count), UPDATE (quota, used_quota, request_count)
    ON users TO billing_relay, billing_worker;
GRANT SELECT (id, user_id, name, status, remain_quota, used_quota, unlimited_quota), UPDATE (remain_quota, used_quota)
    ON tokens TO billing_relay, billing_worker;
GRANT SELECT, UPDATE (amount_used, last_reset_time, next_reset_time, status)
    ON user_subscriptions TO billing_relay, billing_worker;
GRANT SELECT ON subscription_plans TO billing_relay, billing_worker;

-- In a relay's own tables (BILLING_ACCOUNTS=new-api): whether an account may take money, and when it was last used.
DO $$
DECLARE
    of record;
BEGIN
    FOR of IN
        SELECT * FROM (VALUES
            ('users', 'status', 'SELECT'), ('users', 'deleted_at', 'SELECT'),
            ('tokens', 'deleted_at', 'SELECT'), ('tokens', 'expired_time', 'SELECT'),
            ('tokens', 'accessed_time', 'UPDATE'), ('user_subscriptions', 'updated_at', 'UPDATE')
        ) AS wanted (in_table, name, may)
        WHERE EXISTS (
            SELECT FROM pg_attribute
            WHERE attrelid = to_regclass('public.' || in_table) AND attname = name AND NOT attisdropped
        )
    LOOP
        EXECUTE format('GRANT %s (%I) ON public.%I TO billing_relay, billing_worker', of.may, of.name, of.in_table);
    END LOOP;
END $$;

-- The relay: opens sessions, raises holds and records intents; adds to the ledger, and can't take a row of it back.
GRANT SELECT, INSERT, UPDATE (
    state, pre_consumed_quota, token_consumed, subscription_post_delta, reserves, actual_quota, reason, token_error,
    parked, parked_reason, intent, intent_quota, intent_reason, intent_at, closed_at
) ON billing_sessions TO billing_relay;
GRANT INSERT ON billing_ledger TO billing_relay;
GRANT USAGE ON SEQUENCE billing_ledger_id_seq TO billing_relay;
-- With webhooks on, a hold that crosses a threshold notes what is to be told.
GRANT INSERT ON billing_webhooks TO billing_relay;
GRANT USAGE ON SEQUENCE billing_webhooks_id_seq TO billing_relay;

-- The HTTP door, beside: looks keys up, makes none; and looks whether the database has all migrations.
GRANT SELECT ON billing_api_keys TO billing_api;
DO $$
BEGIN
    IF to_regclass('public.billing_alembic_version') IS NOT NULL THEN
        GRANT SELECT ON billing_alembic_version TO billing_api;
    END IF;
END $$;
-- With cache_deltas on, what a hold moves is kept for the relay's caches. Then the worker needs, by hand, the keys that
-- name the tokens' caches: GRANT SELECT (key) ON tokens TO billing_worker;
GRANT INSERT ON billing_cache_deltas TO billing_relay;
GRANT USAGE ON SEQUENCE billing_cache_deltas_id_seq TO billing_relay;

-- In shadow it keeps what it would have refused.
GRANT INSERT ON billing_shadow_refusals TO billing_relay;
GRANT USAGE ON SEQUENCE billing_shadow_refusals_id_seq TO billing_relay;

-- The worker: all rows of our own tables, but of the ledger's past only the sums that retention carries forward.
DO $$
DECLARE
    of record;
BEGIN
    FOR of IN SELECT tablename AS name FROM pg_tables
        WHERE schemaname = 'public' AND tablename LIKE 'billing\_%' AND tablename <> 'billing_alembic_version'
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON public.%I TO billing_worker', of.name);
    END LOOP;
    FOR of IN SELECT sequencename AS name FROM pg_sequences
        WHERE schemaname = 'public' AND sequencename LIKE 'billing\_%'
    LOOP
        EXECUTE format('GRANT USAGE ON SEQUENCE public.%I TO billing_worker', of.name);
    END LOOP;
    IF to_regclass('public.billing_alembic_version') IS NOT NULL THEN
        -- It refuses to start on a database that lacks a migration.
        GRANT SELECT ON billing_alembic_version TO billing_worker;
    END IF;
END $$;
REVOKE UPDATE ON billing_ledger FROM billing_worker;
GRANT UPDATE (amount, balance_after) ON billing_ledger TO billing_worker;

-- The relay's code writes sessions by the same statements as the worker's, so columns alone can't tell apart what it
-- may do. These triggers do: it moves no state, touches no closed session, and can't change an intent once recorded.
-- Row-level security would not do: it hides what may not be changed, and a closed session would be an unknown one.
CREATE OR REPLACE FUNCTION billing_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the role % may not make session % % (it may hold, reserve and record one intent)',
        current_user, NEW.request_id, NEW.state USING ERRCODE = 'insufficient_privilege';
END $$;

DROP TRIGGER IF EXISTS billing_relay_opens ON billing_sessions;
CREATE TRIGGER billing_relay_opens BEFORE INSERT ON billing_sessions FOR EACH ROW
WHEN (
    (NEW.state <> 'preconsumed' OR NEW.actual_quota IS NOT NULL OR NEW.closed_at IS NOT NULL)
    AND NOT pg_has_role(current_user, 'billing_worker', 'USAGE')
) EXECUTE FUNCTION billing_refuse();

DROP TRIGGER IF EXISTS billing_relay_moves ON billing_sessions;
CREATE TRIGGER billing_relay_moves BEFORE UPDATE ON billing_sessions FOR EACH ROW
WHEN (
    (
        OLD.state IN ('settled', 'refunded')
        OR NEW.state <> OLD.state
        OR NEW.actual_quota IS DISTINCT FROM OLD.actual_quota
        OR NEW.closed_at IS DISTINCT FROM OLD.closed_at
        OR (OLD.intent IS NOT NULL AND (NEW.intent, NEW.intent_quota, NEW.intent_reason, NEW.intent_at)
            IS DISTINCT FROM (OLD.intent, OLD.intent_quota, OLD.intent_reason, OLD.intent_at))
    )
    AND NOT pg_has_role(current_user, 'billing_worker', 'USAGE')
) EXECUTE FUNCTION billing_refuse();
