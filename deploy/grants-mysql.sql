-- What the database roles of relays, HTTP doors and workers may do; MySQL 8.0 or MariaDB 10.6, or later.
--
-- Run it in the database of the tables, as a user who may create roles and triggers, after each migration:
--     mysql billing < deploy/grants-mysql.sql
-- It may be run any number of times. Then give each process a login of its own. A worker's must begin with
-- `billing_worker`: the triggers below know it by that.
--     CREATE USER relay1 IDENTIFIED BY '...';          GRANT billing_relay TO relay1;
--     CREATE USER api1 IDENTIFIED BY '...';            GRANT billing_api TO api1;
--     CREATE USER billing_worker1 IDENTIFIED BY '...'; GRANT billing_worker TO billing_worker1;
-- and let each have its role from the start: SET DEFAULT ROLE billing_relay FOR relay1 (MySQL: TO relay1).

CREATE ROLE IF NOT EXISTS billing_relay;
-- An HTTP door is a relay that looks up its callers' keys.
CREATE ROLE IF NOT EXISTS billing_api;
CREATE ROLE IF NOT EXISTS billing_worker;
GRANT billing_relay TO billing_api;

-- Account tables: balances alone, by column. Keys, passwords and whatever else the relay keeps there are not read. In a
-- relay's own tables (BILLING_ACCOUNTS=new-api), also whether an account may take money, and when it was last used.
DELIMITER //
DROP PROCEDURE IF EXISTS billing_grant//
CREATE PROCEDURE billing_grant(may VARCHAR(16), of_table VARCHAR(64), names TEXT)
BEGIN
    SELECT GROUP_CONCAT(column_name) INTO @billing_columns FROM information_schema.columns
        WHERE table_schema = DATABASE() AND table_name = of_table AND FIND_IN_SET(column_name, names);
    SET @billing_grant = CONCAT('GRANT ', may, ' (', @billing_columns, ') ON ', of_table, ' TO billing_relay, billing_worker');
    PREPARE billing_grant FROM @billing_grant;
    EXECUTE billing_grant;
    DEALLOCATE PREPARE billing_grant;
END//
DELIMITER ;
CALL billing_grant('SELECT', 'users', 'id,username,quota,used_quota,request_count,status,deleted_at');
CALL billing_grant('UPDATE', 'users', 'quota,used_quota,request_count');
CALL billing_grant(
    'SELECT', 'tokens', 'id,user_id,name,status,remain_quota,used_quota,unlimited_quota,deleted_at,expired_time'
);
CALL billing_grant('UPDATE', 'tokens', 'remain_quota,used_quota,accessed_time');
GRANT SELECT ON user_subscriptions TO billing_relay, billing_worker;
CALL billing_grant(
    'UPDATE', 'user_subscriptions', 'amount_used,last_reset_time,next_reset_time,status,updated_at'
);
GRANT SELECT ON subscription_plans TO billing_relay, billing_worker;
DROP PROCEDURE billing_grant;

-- The relay: opens sessions, raises holds and records intents; adds to the ledger, and can't take a row of it back.
GRANT SELECT, INSERT, UPDATE (
    state, pre_consumed_quota, token_consumed, subscription_post_delta, reserves, actual_quota, reason, token_error,
    parked, parked_reason, intent, intent_quota, intent_reason, intent_at, closed_at
) ON billing_sessions TO billing_relay;
GRANT INSERT ON billing_ledger TO billing_relay;
-- With webhooks on, a hold that crosses a threshold notes what is to be told.
GRANT INSERT ON billing_webhooks TO billing_relay;
-- With cache_deltas on, what a hold moves is kept for the relay's caches. Then the worker needs, by hand, the keys that
-- name the tokens' caches: GRANT SELECT (`key`) ON tokens TO billing_worker;
GRANT INSERT ON billing_cache_deltas TO billing_relay;
-- In shadow it keeps what it would have refused.
GRANT INSERT ON billing_shadow_refusals TO billing_relay;

-- The HTTP door, beside: looks keys up, makes none; and looks whether the database has all migrations.
GRANT SELECT ON billing_api_keys TO billing_api;
GRANT SELECT ON billing_alembic_version TO billing_api;

-- The worker: all rows of our own tables, but of the ledger's past only the sums that retention carries forward.
GRANT SELECT, INSERT, UPDATE, DELETE ON billing_sessions TO billing_worker;
GRANT SELECT, INSERT, DELETE, UPDATE (amount, balance_after) ON billing_ledger TO billing_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON billing_dead_letters TO billing_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON billing_reconciliations TO billing_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON billing_webhooks TO billing_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON billing_cache_deltas TO billing_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON billing_heartbeats TO billing_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON billing_strays TO billing_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON billing_shadow_refusals TO billing_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON billing_deliveries TO billing_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON billing_api_keys TO billing_worker;
-- It refuses to start on a database that lacks a migration.
GRANT SELECT ON billing_alembic_version TO billing_worker;

-- The relay's code writes sessions by the same statements as the worker's, so columns alone can't tell apart what it
-- may do. These triggers do: it moves no state, touches no closed session, and can't change an intent once recorded.
-- A trigger can't ask for its caller's role, so it looks at the login: the owner's, who made the trigger, and those that
-- begin with `billing_worker` may do all.
DROP TRIGGER IF EXISTS billing_relay_opens;
DROP TRIGGER IF EXISTS billing_relay_moves;
DELIMITER //
CREATE TRIGGER billing_relay_opens BEFORE INSERT ON billing_sessions FOR EACH ROW
IF (NEW.state <> 'preconsumed' OR NEW.actual_quota IS NOT NULL OR NEW.closed_at IS NOT NULL)
    AND USER() NOT LIKE 'billing\_worker%'
    AND SUBSTRING_INDEX(USER(), '@', 1) <> SUBSTRING_INDEX(CURRENT_USER(), '@', 1)
THEN
    SIGNAL SQLSTATE '42000' SET MYSQL_ERRNO = 1142,
        MESSAGE_TEXT = 'command denied: this role may not make a session that is closed';
END IF//
CREATE TRIGGER billing_relay_moves BEFORE UPDATE ON billing_sessions FOR EACH ROW
IF (
        OLD.state IN ('settled', 'refunded')
        OR NEW.state <> OLD.state
        OR NOT NEW.actual_quota <=> OLD.actual_quota
        OR NOT NEW.closed_at <=> OLD.closed_at
        OR (OLD.intent IS NOT NULL AND NOT (
            NEW.intent <=> OLD.intent AND NEW.intent_quota <=> OLD.intent_quota
            AND NEW.intent_reason <=> OLD.intent_reason AND NEW.intent_at <=> OLD.intent_at
        ))
    )
    AND USER() NOT LIKE 'billing\_worker%'
    AND SUBSTRING_INDEX(USER(), '@', 1) <> SUBSTRING_INDEX(CURRENT_USER(), '@', 1)
THEN
    SIGNAL SQLSTATE '42000' SET MYSQL_ERRNO = 1142,
        MESSAGE_TEXT = 'command denied: this role may not move or change this session';
END IF//
DELIMITER ;
