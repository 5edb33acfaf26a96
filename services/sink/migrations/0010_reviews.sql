-- What a person judged of a call. It is of the call, not of an enrichment of it: whatever is computed
-- again, it counts until it is withdrawn.

CREATE TABLE IF NOT EXISTS reviews
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    basis_at DateTime64(3, 'UTC'),
    criterion_id LowCardinality(String) COMMENT 'empty: the score as a whole',
    verdict LowCardinality(String) COMMENT 'of a criterion',
    score Nullable(Float64) COMMENT '0 to 100, of the whole; null where a criterion is judged',
    withdrawn Bool,
    reviewed_at DateTime64(3, 'UTC'),
    reviewed_by String,
    reason String
)
ENGINE = ReplacingMergeTree
ORDER BY (tenant_id, call_id, event_id)
COMMENT 'CallReviewed: every judgement, the withdrawn and the overtaken ones too';

CREATE OR REPLACE VIEW call_reviews AS
SELECT
    r.tenant_id AS tenant_id,
    r.call_id AS call_id,
    r.criterion_id AS criterion_id,
    argMax(r.verdict, (r.reviewed_at, r.event_id)) AS verdict,
    argMax(tuple(r.score), (r.reviewed_at, r.event_id)).1 AS score,
    max(r.reviewed_at) AS reviewed_at,
    argMax(r.reviewed_by, (r.reviewed_at, r.event_id)) AS reviewed_by,
    argMax(r.reason, (r.reviewed_at, r.event_id)) AS reason,
    argMax(r.event_id, (r.reviewed_at, r.event_id)) AS event_id
FROM reviews AS r
GROUP BY tenant_id, call_id, criterion_id
HAVING NOT argMax(r.withdrawn, (r.reviewed_at, r.event_id))
COMMENT 'The latest review of each call and criterion that is not withdrawn; criterion_id is empty where the score as a whole was judged';

-- Both views join what is reviewed once: a join takes more time than all the reviews there are.
CREATE OR REPLACE VIEW call_criteria AS
SELECT
    c.tenant_id AS tenant_id,
    c.call_id AS call_id,
    c.criterion_id AS criterion_id,
    c.title AS title,
    if(r.said.1 != '', r.said.1, c.verdict) AS verdict,
    c.weight AS weight,
    c.reason AS reason,
    -- Nothing is to be done better where a person found nothing missing.
    if(r.said.1 IN ('', 'NOT_MET'), c.suggestion, '') AS suggestion,
    c.quotes AS quotes,
    c.start_ms AS start_ms,
    c.end_ms AS end_ms,
    c.segment_ids AS segment_ids,
    c.engine AS engine,
    c.verdict AS computed_verdict,
    r.said.2 AS reviewed_by,
    r.said.3 AS review_reason
FROM
(
    SELECT
        tenant_id, call_id, criterion_id, title, verdict, weight, reason, suggestion, quotes,
        start_ms, end_ms, segment_ids, engine
    FROM criteria FINAL
    WHERE (tenant_id, call_id, event_id) IN
        (SELECT tenant_id, call_id, event_id FROM current_enriched)
) AS c
LEFT JOIN
(
    SELECT
        tenant_id, call_id, criterion_id,
        argMax(
            if(withdrawn, ('', '', ''), (verdict, reviewed_by, reason)), (reviewed_at, event_id)
        ) AS said
    FROM reviews
    WHERE criterion_id != ''
    GROUP BY tenant_id, call_id, criterion_id
) AS r
ON c.tenant_id = r.tenant_id AND c.call_id = r.call_id AND c.criterion_id = r.criterion_id
COMMENT 'What the score consists of. verdict is what counts: a person''s where one reviewed the criterion, else the computed one; reason is that of the computed one';

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
