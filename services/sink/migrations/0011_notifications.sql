-- What endpoints outside have taken, and what they have not. What becomes of it leaves the state of the
-- call as it is, and so does what a language model adds to a call that is enriched.

CREATE TABLE IF NOT EXISTS notifications
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    basis_at DateTime64(3, 'UTC'),
    generation Int64,
    revision Int64 COMMENT 'of the event that was told',
    time DateTime64(3, 'UTC'),
    endpoint LowCardinality(String),
    told_id String COMMENT 'the event that was told: its webhook-id',
    record LowCardinality(String) COMMENT 'AlertRaised or CallEnriched',
    rule LowCardinality(String) COMMENT 'of an alert',
    notified_at DateTime64(3, 'UTC'),
    attempts Int32,
    answer String
)
ENGINE = ReplacingMergeTree
ORDER BY (tenant_id, call_id, event_id)
SETTINGS non_replicated_deduplication_window = 1000
COMMENT 'CallNotified: what an endpoint outside has taken';

CREATE OR REPLACE VIEW call_notifications AS
SELECT
    tenant_id,
    call_id,
    endpoint,
    multiIf(
        told.1 != '', told.1,
        (tenant_id, call_id, told_id) IN (SELECT tenant_id, call_id, event_id FROM alerts),
        'AlertRaised',
        'CallEnriched'
    ) AS record,
    told.2 AS rule,
    told_id,
    latest.1 AS state,
    latest.2 AS reason,
    latest.3 AS detail,
    latest.4 AS since,
    latest.5 AS attempts
FROM
(
    SELECT
        tenant_id,
        call_id,
        endpoint,
        told_id,
        -- What was refused and told after all, or the other way round: the later one counts.
        argMax(
            (state, reason, detail, since, attempts), (since, state = 'notified', attempts, detail)
        ) AS latest,
        argMax((record, rule), (record != '', since, record)) AS told
    FROM
    (
        SELECT
            tenant_id, call_id, endpoint, told_id, record, rule, 'notified' AS state,
            '' AS reason, answer AS detail, notified_at AS since, toInt64(attempts) AS attempts
        FROM notifications
        WHERE (tenant_id, generation) NOT IN (SELECT * FROM shadow_generations)
        UNION ALL
        SELECT
            tenant_id, call_id, substring(s.stage, 8) AS endpoint, input_id AS told_id,
            '' AS record, '' AS rule,
            if(s.state = 'waiting', 'notifying', 'notification_failed') AS state,
            reason, detail, s.time AS since, s.attempt AS attempts
        FROM stage_states AS s
        WHERE startsWith(s.stage, 'notify.')
            AND s.state IN ('waiting', 'refused', 'failed', 'dropped')
            AND (tenant_id, generation) NOT IN (SELECT * FROM shadow_generations)
    )
    GROUP BY tenant_id, call_id, endpoint, told_id
)
COMMENT 'Of each call, what each endpoint was told: notified, notification_failed (with the reason) or notifying (in a retry tier); detail is what the endpoint said. What is neither has not been told yet';

CREATE OR REPLACE VIEW call_states AS
SELECT
    tenant_id,
    call_id,
    stage,
    latest.1 AS state,
    latest.2 AS reason,
    latest.3 AS detail,
    latest.4 AS due_at,
    latest.5 AS attempt,
    latest.6 AS since,
    latest.7 AS generation,
    latest.8 AS revision
FROM
(
    SELECT
        tenant_id,
        call_id,
        stage,
        argMax(
            (state, reason, detail, due_at, attempt, time, generation, known),
            (known, generation, time, state = 'done', state = 'dropped', attempt)
        ) AS latest
    FROM
    (
        SELECT s.*, if(s.revision != 0, s.revision, inputs.revision) AS known
        FROM stage_states AS s
        LEFT JOIN
        (
            SELECT tenant_id, call_id, event_id, max(revision) AS revision
            FROM
            (
                SELECT tenant_id, call_id, event_id, revision FROM calls_ended
                UNION ALL
                SELECT tenant_id, call_id, event_id, revision FROM calls_recorded
                UNION ALL
                SELECT tenant_id, call_id, event_id, revision FROM calls_transcribed
            )
            GROUP BY tenant_id, call_id, event_id
        ) AS inputs
        ON s.tenant_id = inputs.tenant_id AND s.call_id = inputs.call_id
            AND s.input_id = inputs.event_id
        WHERE (s.tenant_id, s.generation) NOT IN (SELECT * FROM shadow_generations)
            -- A replay that fails or waits leaves the call as it was.
            AND (s.generation = 0 OR s.state = 'done')
            -- Of a call each event is told to each endpoint: call_notifications tells of these.
            AND NOT startsWith(s.stage, 'notify.')
    )
    GROUP BY tenant_id, call_id, stage
)
COMMENT 'State of each call at each stage: done, waiting (until due_at), refused, failed, dropped (failed, and settled by an operator) or erased, and why';

-- The score where criteria are reviewed: the formula of services/enrich/score.py, added up in the order of
-- the event, and rounded as there.
