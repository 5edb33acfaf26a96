-- What has waited for an endpoint until it had another event in its place.

ALTER TABLE notifications ADD COLUMN IF NOT EXISTS overtaken_by String COMMENT 'event that the endpoint has in place of this one, which it was not sent';

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
            tenant_id, call_id, endpoint, told_id, record, rule,
            if(overtaken_by = '', 'notified', 'overtaken') AS state,
            '' AS reason, if(overtaken_by = '', answer, overtaken_by) AS detail,
            notified_at AS since, toInt64(attempts) AS attempts
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
COMMENT 'Of each call, what each endpoint was told: notified, notification_failed (with the reason), notifying (in a retry tier) or overtaken; detail is what the endpoint said, or the event that it has in place of this one. What is neither has not been told yet';
