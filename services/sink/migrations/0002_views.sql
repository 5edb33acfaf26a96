-- What people and BI tools read. A call's current row of each kind is the one with the greatest
-- (generation, revision); time and id only break ties. Rows below it (segments, findings, ...) are
-- shown when their event is the current one, which is never before the event is whole.
--
-- Repeats that have not merged yet go away by FINAL: over one key it costs about a third more than
-- none at four unmerged copies, half of what GROUP BY or LIMIT BY costs (chDB 26.9, 2 cores). Which
-- event is current is told by argMax, over the small tables only.

CREATE OR REPLACE VIEW shadow_generations AS
SELECT tenant_id, call_id, generation
FROM replays
GROUP BY tenant_id, call_id, generation
HAVING argMax(shadow, (requested_at, event_id))
COMMENT 'Generations that are shown to nobody; a later request with shadow = false promotes one';

CREATE OR REPLACE VIEW current_ended AS
SELECT * FROM calls_ended FINAL
WHERE (tenant_id, call_id, event_id) IN
(
    SELECT tenant_id, call_id, argMax(event_id, (generation, revision, time, event_id))
    FROM calls_ended
    WHERE (tenant_id, call_id, generation) NOT IN (SELECT * FROM shadow_generations)
    GROUP BY tenant_id, call_id
)
COMMENT 'The current CallEnded of each call';

CREATE OR REPLACE VIEW current_recorded AS
SELECT * FROM calls_recorded FINAL
WHERE (tenant_id, call_id, event_id) IN
(
    SELECT tenant_id, call_id, argMax(event_id, (generation, revision, time, event_id))
    FROM calls_recorded
    WHERE (tenant_id, call_id, generation) NOT IN (SELECT * FROM shadow_generations)
    GROUP BY tenant_id, call_id
)
COMMENT 'The current CallRecorded of each call';

CREATE OR REPLACE VIEW current_transcribed AS
SELECT * FROM calls_transcribed FINAL
WHERE (tenant_id, call_id, event_id) IN
(
    SELECT tenant_id, call_id, argMax(event_id, (generation, revision, time, event_id))
    FROM calls_transcribed
    WHERE (tenant_id, call_id, generation) NOT IN (SELECT * FROM shadow_generations)
    GROUP BY tenant_id, call_id
)
COMMENT 'The current CallTranscribed of each call';

CREATE OR REPLACE VIEW current_enriched AS
SELECT * FROM calls_enriched FINAL
WHERE (tenant_id, call_id, event_id) IN
(
    SELECT tenant_id, call_id, argMax(event_id, (generation, revision, time, event_id))
    FROM calls_enriched
    WHERE (tenant_id, call_id, generation) NOT IN (SELECT * FROM shadow_generations)
    GROUP BY tenant_id, call_id
)
COMMENT 'The current CallEnriched of each call';

-- A retry or a dead letter does not say which revision it is about; its input event does.
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
            (generation, known, time, state = 'done', state = 'dropped', attempt)
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
        WHERE (s.tenant_id, s.call_id, s.generation) NOT IN (SELECT * FROM shadow_generations)
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
                    generation, revision,
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

CREATE OR REPLACE VIEW call_segments AS
SELECT
    tenant_id, call_id, segment_id, recording_id, channel, speaker, role, start_ms, end_ms, text,
    language, confidence, flags, length(words) AS words, words_interpolated, event_id AS transcript_id
FROM segments FINAL
WHERE (tenant_id, call_id, event_id) IN
    (SELECT tenant_id, call_id, event_id FROM current_transcribed)
COMMENT 'Who said what and when; ms since the call''s start';

CREATE OR REPLACE VIEW call_words AS
SELECT
    tenant_id, call_id, segment_id, role, speaker, number - 1 AS word_id, words[number] AS word,
    word_start_ms[number] AS start_ms, word_end_ms[number] AS end_ms,
    if(empty(word_confidence), NULL, word_confidence[number]) AS confidence,
    words_interpolated AS interpolated
FROM segments FINAL
ARRAY JOIN arrayEnumerate(words) AS number
WHERE (tenant_id, call_id, event_id) IN
    (SELECT tenant_id, call_id, event_id FROM current_transcribed)
COMMENT 'Words with their times, ms since the call''s start; empty where the sink does not keep words';

CREATE OR REPLACE VIEW call_findings AS
SELECT
    tenant_id, call_id, finding_id, kind, label, role, quote, start_ms, end_ms, segment_ids, rule,
    rule_version, engine, confidence, event_id AS enrichment_id
FROM findings FINAL
WHERE (tenant_id, call_id, event_id) IN (SELECT tenant_id, call_id, event_id FROM current_enriched)
COMMENT 'What was heard, with the words it rests on';

CREATE OR REPLACE VIEW call_moments AS
SELECT tenant_id, call_id, kind, role, start_ms, end_ms, end_ms - start_ms AS duration_ms, segment_ids
FROM moments FINAL
WHERE (tenant_id, call_id, event_id) IN (SELECT tenant_id, call_id, event_id FROM current_enriched)
COMMENT 'Silences, overlaps and slow responses';

CREATE OR REPLACE VIEW call_metrics AS
SELECT tenant_id, call_id, name, role, value
FROM metrics FINAL
WHERE (tenant_id, call_id, event_id) IN (SELECT tenant_id, call_id, event_id FROM current_enriched)
COMMENT 'Conversation metrics; role is empty where the metric is of the call';

CREATE OR REPLACE VIEW call_sentiments AS
SELECT tenant_id, call_id, segment_id, role, label, score, engine
FROM sentiments FINAL
WHERE (tenant_id, call_id, event_id) IN (SELECT tenant_id, call_id, event_id FROM current_enriched)
COMMENT 'Sentiment per segment, -1 to 1';

CREATE OR REPLACE VIEW call_course AS
SELECT tenant_id, call_id, quarter, role, label, score
FROM course FINAL
WHERE (tenant_id, call_id, event_id) IN (SELECT tenant_id, call_id, event_id FROM current_enriched)
COMMENT 'Sentiment per quarter of the call and role, -1 to 1';

CREATE OR REPLACE VIEW call_criteria AS
SELECT
    tenant_id, call_id, criterion_id, title, verdict, weight, reason, suggestion, quotes, start_ms,
    end_ms, segment_ids
FROM criteria FINAL
WHERE (tenant_id, call_id, event_id) IN (SELECT tenant_id, call_id, event_id FROM current_enriched)
COMMENT 'What the score consists of';

CREATE OR REPLACE VIEW call_summaries AS
SELECT tenant_id, call_id, ordinal AS sentence, text, quote, start_ms, end_ms, segment_ids
FROM summary_sentences FINAL
WHERE (tenant_id, call_id, event_id) IN (SELECT tenant_id, call_id, event_id FROM current_enriched)
COMMENT 'Sentences of the summary, each with what it rests on';

CREATE OR REPLACE VIEW call_alerts AS
SELECT
    tenant_id, call_id, rule, rule_version, severity, title, reason, suggested_action, agent_id,
    queue_id, raised_at, quotes, start_ms, end_ms, segment_ids, event_id AS alert_id
FROM alerts FINAL
WHERE (tenant_id, call_id, event_id) IN
(
    SELECT tenant_id, call_id, argMax(event_id, (generation, revision, time, event_id))
    FROM alerts
    WHERE (tenant_id, call_id, generation) NOT IN (SELECT * FROM shadow_generations)
    GROUP BY tenant_id, call_id, rule
)
COMMENT 'The latest alert of each rule and call';

CREATE OR REPLACE VIEW agents_daily AS
SELECT
    tenant_id,
    toDate32(started_at) AS day,
    agent_id,
    any(agent_name) AS agent_name,
    count() AS calls,
    sum(duration_ms) AS duration_ms,
    sum(talk_ms) AS talk_ms,
    avg(score) AS score,
    avg(customer_sentiment) AS customer_sentiment,
    avg(customer_sentiment_end - customer_sentiment_start) AS customer_sentiment_change,
    avg(agent_sentiment) AS agent_sentiment,
    sum(length(alerts)) AS alerts,
    countIf(state = 'failed') AS failed,
    countIf(state = 'waiting') AS waiting
FROM calls
WHERE agent_id != ''
GROUP BY tenant_id, day, agent_id
COMMENT 'Calls, scores and sentiment per agent and UTC day; a call with several agents counts for the first';

CREATE OR REPLACE VIEW queues_daily AS
SELECT
    tenant_id,
    toDate32(started_at) AS day,
    queue,
    count() AS calls,
    countIf(disposition = 'ABANDONED') AS abandoned,
    sum(duration_ms) AS duration_ms,
    avg(queue_ms) AS queue_ms,
    avg(hold_ms) AS hold_ms,
    avg(score) AS score,
    avg(customer_sentiment) AS customer_sentiment,
    sum(length(alerts)) AS alerts,
    countIf(state = 'failed') AS failed,
    countIf(state = 'waiting') AS waiting
FROM calls
WHERE queue != ''
GROUP BY tenant_id, day, queue
COMMENT 'Calls, waits, scores and sentiment per queue and UTC day';

CREATE OR REPLACE VIEW topics_daily AS
SELECT
    tenant_id,
    toDate32(started_at) AS day,
    topic,
    count() AS calls,
    avg(score) AS score,
    avg(customer_sentiment) AS customer_sentiment,
    countIf(notEmpty(alerts)) AS calls_with_alerts
FROM calls
ARRAY JOIN topics AS topic
GROUP BY tenant_id, day, topic
COMMENT 'Calls in which a topic came up, per UTC day';

CREATE OR REPLACE VIEW emotion_by_topic AS
SELECT tenant_id, toDate32(started_at) AS day, topic, emotion, count() AS calls
FROM (SELECT tenant_id, started_at, emotions, topic FROM calls ARRAY JOIN topics AS topic)
ARRAY JOIN emotions AS emotion
GROUP BY tenant_id, day, topic, emotion
COMMENT 'Heat map: calls in which a topic and an emotion both came up';

CREATE OR REPLACE VIEW emotion_course AS
SELECT
    c.tenant_id AS tenant_id,
    toDate32(e.started_at) AS day,
    c.quarter AS quarter,
    c.role AS role,
    count() AS calls,
    avg(c.score) AS score,
    countIf(c.label = 'NEGATIVE') AS negative,
    countIf(c.label = 'NEUTRAL') AS neutral,
    countIf(c.label = 'POSITIVE') AS positive
FROM call_course AS c
INNER JOIN current_ended AS e ON c.tenant_id = e.tenant_id AND c.call_id = e.call_id
GROUP BY tenant_id, day, quarter, role
COMMENT 'Sentiment over the quarters of calls, per role and UTC day of the call';

CREATE OR REPLACE VIEW dead_letters AS
SELECT
    tenant_id,
    call_id,
    header_values[indexOf(header_names, '__connect.errors.connector.name')] AS stage,
    header_values[indexOf(header_names, 'callstream.reason')] AS reason,
    header_values[indexOf(header_names, '__connect.errors.exception.message')] AS message,
    header_values[indexOf(header_names, '__connect.errors.exception.class.name')] AS exception,
    header_values[indexOf(header_names, '__connect.errors.exception.stacktrace')] AS stacktrace,
    header_values[indexOf(header_names, '__connect.errors.topic')] AS source_topic,
    toInt32OrNull(header_values[indexOf(header_names, '__connect.errors.partition')]) AS source_partition,
    toInt64OrNull(header_values[indexOf(header_names, '__connect.errors.offset')]) AS source_offset,
    toInt64OrNull(header_values[indexOf(header_names, 'callstream.attempt')]) AS attempt,
    timestamp AS failed_at,
    event_id AS input_id,
    place AS id,
    partition,
    offset,
    length(value) AS value_bytes
FROM events FINAL
WHERE topic = 'calls.dead-letter' AND NOT has(header_names, 'callstream.dead.of') AND place NOT IN
(
    SELECT header_values[indexOf(header_names, 'callstream.dead.of')]
    FROM events
    WHERE topic = 'calls.dead-letter'
)
COMMENT 'Messages that were given up, and why, that nobody has redriven or dropped; their bytes are in events under the same topic and place';
