-- A newer revision of a call goes before a replay of an older one: current is the greatest (revision,
-- generation). What a shadow generation holds is known to be one before any of it is stored: its
-- events say so themselves, and `shadows` is filled ahead of every headline. The decision about a
-- generation is one row, so that readers see all of its calls or none.

CREATE TABLE IF NOT EXISTS shadows
(
    tenant_id LowCardinality(String),
    generation Int64
)
ENGINE = ReplacingMergeTree
ORDER BY (tenant_id, generation)
SETTINGS non_replicated_deduplication_window = 1000
COMMENT 'Generations that began as shadows';

CREATE TABLE IF NOT EXISTS generations
(
    tenant_id LowCardinality(String),
    generation Int64,
    event_id String,
    decision LowCardinality(String) COMMENT 'PROMOTED or DISCARDED; the latest counts',
    decided_at DateTime64(3, 'UTC'),
    decided_by String,
    reason String
)
ENGINE = ReplacingMergeTree
ORDER BY (tenant_id, generation, event_id)
SETTINGS non_replicated_deduplication_window = 1000
COMMENT 'GenerationDecided: what became of shadow generations';

CREATE OR REPLACE VIEW shadow_generations AS
SELECT DISTINCT tenant_id, generation
FROM shadows
WHERE (tenant_id, generation) NOT IN
(
    SELECT tenant_id, generation
    FROM generations
    GROUP BY tenant_id, generation
    HAVING argMax(decision, (decided_at, event_id)) = 'PROMOTED'
)
COMMENT 'Generations that are shown to nobody, unless they are promoted';

CREATE OR REPLACE VIEW current_ended AS
SELECT * FROM calls_ended FINAL
WHERE (tenant_id, call_id, event_id) IN
(
    SELECT tenant_id, call_id, argMax(event_id, (revision, generation, time, event_id))
    FROM calls_ended
    WHERE (tenant_id, generation) NOT IN (SELECT * FROM shadow_generations)
    GROUP BY tenant_id, call_id
)
COMMENT 'The current CallEnded of each call';

CREATE OR REPLACE VIEW current_recorded AS
SELECT * FROM calls_recorded FINAL
WHERE (tenant_id, call_id, event_id) IN
(
    SELECT tenant_id, call_id, argMax(event_id, (revision, generation, time, event_id))
    FROM calls_recorded
    WHERE (tenant_id, generation) NOT IN (SELECT * FROM shadow_generations)
    GROUP BY tenant_id, call_id
)
COMMENT 'The current CallRecorded of each call';

CREATE OR REPLACE VIEW current_transcribed AS
SELECT * FROM calls_transcribed FINAL
WHERE (tenant_id, call_id, event_id) IN
(
    SELECT tenant_id, call_id, argMax(event_id, (revision, generation, time, event_id))
    FROM calls_transcribed
    WHERE (tenant_id, generation) NOT IN (SELECT * FROM shadow_generations)
    GROUP BY tenant_id, call_id
)
COMMENT 'The current CallTranscribed of each call';

CREATE OR REPLACE VIEW current_enriched AS
SELECT * FROM calls_enriched FINAL
WHERE (tenant_id, call_id, event_id) IN
(
    SELECT tenant_id, call_id, argMax(event_id, (revision, generation, time, event_id))
    FROM calls_enriched
    WHERE (tenant_id, generation) NOT IN (SELECT * FROM shadow_generations)
    GROUP BY tenant_id, call_id
)
COMMENT 'The current CallEnriched of each call';

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
    )
    GROUP BY tenant_id, call_id, stage
)
COMMENT 'State of each call at each stage: done, waiting (until due_at), refused, failed, dropped (failed, and settled by an operator) or erased, and why';

CREATE OR REPLACE VIEW calls AS
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
    n.score AS score,
    n.topics AS topics,
    n.emotions AS emotions,
    n.alerts AS alerts,
    n.summary AS summary,
    n.rules_version AS rules_version,
    e.revision AS revision
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
        -- That the sink is done with one event says nothing of how far its call has come.
        WHERE stage != 'erase' AND NOT (stage = 'sink' AND state = 'done')
        GROUP BY tenant_id, call_id
    )
) AS p ON e.tenant_id = p.tenant_id AND e.call_id = p.call_id
COMMENT 'One row per call. state: ended, stored, transcribed, enriched, waiting, failed, no_recording; the reason beside it';

CREATE OR REPLACE VIEW call_alerts AS
SELECT
    tenant_id, call_id, rule, rule_version, severity, title, reason, suggested_action, agent_id,
    queue_id, raised_at, quotes, start_ms, end_ms, segment_ids, event_id AS alert_id
FROM alerts FINAL
WHERE (tenant_id, call_id, event_id) IN
(
    SELECT tenant_id, call_id, argMax(event_id, (revision, generation, time, event_id))
    FROM alerts
    WHERE (tenant_id, generation) NOT IN (SELECT * FROM shadow_generations)
    GROUP BY tenant_id, call_id, rule
)
-- A replay by other rules may say that there is nothing to raise, and raises nothing again itself.
AND (tenant_id, call_id, rule) IN
    (SELECT tenant_id, call_id, arrayJoin(alerts) FROM current_enriched)
COMMENT 'The latest alert of each rule and call, where the rule still says so';
