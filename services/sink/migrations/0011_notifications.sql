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
CREATE OR REPLACE VIEW calls AS
WITH
    -- (verdict that counts, weight) of each criterion of the current enrichment
    arrayMap(
        each -> (if(v.verdicts[each.3] != '', v.verdicts[each.3], each.4), each.5),
        arrayFilter(each -> each.1 = n.event_id, v.criteria)
    ) AS judged,
    arrayExists(each -> each.1 = n.event_id AND v.verdicts[each.3] != '', v.criteria) AS reviewed,
    arraySum(each -> if(each.1 = 'MET', each.2, 0.), judged) AS met,
    arraySum(each -> if(each.1 NOT IN ('NOT_APPLICABLE', 'UNKNOWN'), each.2, 0.), judged) AS applicable,
    arraySum(each -> if(each.1 = n.event_id, each.3, 0.), v.changes) AS points,
    100 * met / applicable + points AS reached
SELECT
    e.tenant_id AS tenant_id,
    e.call_id AS call_id,
    e.started_at AS started_at,
    e.ended_at AS ended_at,
    -- A file that is handed in says nothing of when its call began.
    multiIf(
        e.duration_ms > 0, e.duration_ms, t.duration_ms > 0, t.duration_ms, r.audio_ms
    ) AS duration_ms,
    e.talk_ms AS talk_ms,
    e.queue_ms AS queue_ms,
    e.hold_ms AS hold_ms,
    e.direction AS direction,
    e.disposition AS disposition,
    e.platform AS platform,
    e.agent_id AS agent_id,
    e.agent_name AS agent_name,
    if(e.queue_name != '', e.queue_name, e.queue_id) AS queue,
    e.subject_ref AS subject_ref,
    e.crm_ref AS crm_ref,
    multiIf(
        n.language NOT IN ('', 'und'), n.language,
        t.language != '', t.language,
        length(e.language_hints) > 0, e.language_hints[1],
        'und'
    ) AS language,
    t.engine AS engine,
    t.model AS model,
    multiIf(
        p.state = 'waiting', 'waiting',
        p.state IN ('refused', 'failed', 'dropped'), 'failed',
        n.event_id != '', 'enriched',
        t.event_id != '', 'transcribed',
        r.event_id != '' AND r.recordings > 0, 'stored',
        r.event_id != '' AND r.pending = 0, 'no_recording',
        e.recordings_expected = 0, 'no_recording',
        'ended'
    ) AS state,
    multiIf(
        p.state IN ('waiting', 'refused', 'failed'), concat(p.stage, ': ', p.reason),
        p.state = 'dropped', concat(p.stage, ': dropped: ', p.reason),
        state = 'no_recording' AND r.event_id != '', arrayStringConcat(r.refused_reasons, '; '),
        state = 'no_recording', e.no_recording_reason,
        ''
    ) AS state_reason,
    if(p.state = 'waiting', p.due_at, NULL) AS due_at,
    t.turns AS turns,
    t.words AS words,
    t.flagged AS flagged_segments,
    t.degradations AS degradations,
    n.customer_sentiment_start AS customer_sentiment_start,
    n.customer_sentiment_end AS customer_sentiment_end,
    n.customer_sentiment AS customer_sentiment,
    n.agent_sentiment AS agent_sentiment,
    multiIf(
        v.whole IS NOT NULL, v.whole,
        NOT reviewed, n.score,
        applicable != 0 AND isFinite(reached),
        -- round() goes wrong by a hundredth where a number only looks like a tie.
        toFloat64(printf('%.2f', greatest(0., least(100., reached)))),
        NULL
    ) AS score,
    n.topics AS topics,
    n.emotions AS emotions,
    n.alerts AS alerts,
    n.summary AS summary,
    n.rules_version AS rules_version,
    e.revision AS revision,
    n.score AS computed_score,
    (v.whole IS NOT NULL OR reviewed)::Bool AS score_reviewed
FROM current_ended AS e
LEFT JOIN current_recorded AS r ON e.tenant_id = r.tenant_id AND e.call_id = r.call_id
LEFT JOIN current_transcribed AS t ON e.tenant_id = t.tenant_id AND e.call_id = t.call_id
LEFT JOIN current_enriched AS n ON e.tenant_id = n.tenant_id AND e.call_id = n.call_id
LEFT JOIN
(
    SELECT
        tenant_id, call_id, latest.1 AS state, latest.2 AS stage, latest.3 AS reason,
        latest.4 AS due_at
    FROM
    (
        SELECT
            tenant_id,
            call_id,
            argMax(
                (state, stage, reason, due_at),
                (
                    revision, generation,
                    indexOf(['ingest', 'transcribe', 'enrich', 'sink'], stage), since
                )
            ) AS latest
        FROM call_states
        -- How far a call has come is told by the stages that it goes through, one after another;
        -- that the sink is done with one event says nothing of it.
        WHERE stage IN ('ingest', 'transcribe', 'enrich', 'sink')
            AND NOT (stage = 'sink' AND state = 'done')
        GROUP BY tenant_id, call_id
    )
) AS p ON e.tenant_id = p.tenant_id AND e.call_id = p.call_id
LEFT JOIN
(
    -- Of each reviewed call what was said, and what every enrichment of it weighs.
    SELECT
        r.tenant_id AS tenant_id, r.call_id AS call_id, r.whole AS whole, r.verdicts AS verdicts,
        c.criteria AS criteria, s.changes AS changes
    FROM
    (
        SELECT
            tenant_id, call_id, anyIf(score, criterion_id = '') AS whole,
            mapFromArrays(
                groupArrayIf(criterion_id, criterion_id != ''),
                groupArrayIf(verdict, criterion_id != '')
            ) AS verdicts
        FROM call_reviews
        GROUP BY tenant_id, call_id
    ) AS r
    LEFT JOIN
    (
        SELECT
            tenant_id, call_id,
            arraySort(
                groupArray((event_id, ordinal, criterion_id, verdict, ifNull(weight, 0.)))
            ) AS criteria
        FROM criteria FINAL
        WHERE (tenant_id, call_id) IN (SELECT tenant_id, call_id FROM reviews)
        GROUP BY tenant_id, call_id
    ) AS c ON r.tenant_id = c.tenant_id AND r.call_id = c.call_id
    LEFT JOIN
    (
        SELECT tenant_id, call_id, arraySort(groupArray((event_id, ordinal, points))) AS changes
        FROM score_changes FINAL
        WHERE (tenant_id, call_id) IN (SELECT tenant_id, call_id FROM reviews)
        GROUP BY tenant_id, call_id
    ) AS s ON r.tenant_id = s.tenant_id AND r.call_id = s.call_id
) AS v ON e.tenant_id = v.tenant_id AND e.call_id = v.call_id
COMMENT 'One row per call. state: ended, stored, transcribed, enriched, waiting, failed, no_recording; the reason beside it. score is what counts: a person''s where one reviewed the call or a criterion of it, else the computed one';
