-- What an enrichment says beyond findings: keywords, statements, what is personal, what rules change.
-- Rows from before say nothing of it.

CREATE TABLE IF NOT EXISTS keywords
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    basis_at DateTime64(3, 'UTC'),
    ordinal Int32,
    text String,
    role LowCardinality(String) COMMENT 'who said it most',
    weight Float32 COMMENT '0 to 1, the most telling of the call at 1',
    count Int32
)
ENGINE = ReplacingMergeTree
ORDER BY (tenant_id, call_id, event_id, ordinal)
COMMENT 'Words that stand out in a call';

CREATE TABLE IF NOT EXISTS statements
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    basis_at DateTime64(3, 'UTC'),
    ordinal Int32,
    kind LowCardinality(String),
    text String,
    segment_ids Array(Array(Int32)),
    start_ms Array(Int64),
    end_ms Array(Int64),
    quotes Array(String)
)
ENGINE = ReplacingMergeTree
ORDER BY (tenant_id, call_id, event_id, ordinal)
COMMENT 'What an LLM states of a call, with what it rests on';

CREATE TABLE IF NOT EXISTS redactions
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    basis_at DateTime64(3, 'UTC'),
    ordinal Int32,
    segment_id Int32,
    kind LowCardinality(String),
    start_char Int32 COMMENT 'character of the segment''s text, from 0',
    end_char Int32 COMMENT 'the character after the last',
    start_ms Int64,
    end_ms Int64
)
ENGINE = ReplacingMergeTree
ORDER BY (tenant_id, call_id, event_id, ordinal)
COMMENT 'What of a transcript is personal, by place; never the words';

CREATE TABLE IF NOT EXISTS score_changes
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    basis_at DateTime64(3, 'UTC'),
    ordinal Int32,
    rule LowCardinality(String),
    rule_version LowCardinality(String),
    points Float64 COMMENT '-100 to 100',
    reason String,
    segment_ids Array(Array(Int32)),
    start_ms Array(Int64),
    end_ms Array(Int64),
    quotes Array(String)
)
ENGINE = ReplacingMergeTree
ORDER BY (tenant_id, call_id, event_id, ordinal)
COMMENT 'What rules add to a score or take from it';

ALTER TABLE sentiments ADD COLUMN IF NOT EXISTS text_score Nullable(Float32)
        COMMENT 'of the words alone; null where they tell nothing',
    ADD COLUMN IF NOT EXISTS voice_score Nullable(Float32)
        COMMENT 'of the voice alone; null where the engine does not hear that',
    ADD COLUMN IF NOT EXISTS voice LowCardinality(String) COMMENT 'emotion heard in the voice';

ALTER TABLE findings ADD COLUMN IF NOT EXISTS suggestion String COMMENT 'what a rule suggests to do';

ALTER TABLE criteria ADD COLUMN IF NOT EXISTS engine LowCardinality(String) DEFAULT 'rules'
        COMMENT 'what judged: rules, or an LLM''s name';

ALTER TABLE calls_enriched ADD COLUMN IF NOT EXISTS keywords Array(String)
        COMMENT 'the most telling first',
    ADD COLUMN IF NOT EXISTS answered LowCardinality(String)
        COMMENT 'whether the answer met the demand, as an LLM judges; empty where none did',
    ADD COLUMN IF NOT EXISTS resolution LowCardinality(String) COMMENT 'as answered',
    ADD COLUMN IF NOT EXISTS statements_dropped Int32
        COMMENT 'of an LLM, because they rested on nothing that was said',
    ADD COLUMN IF NOT EXISTS llm_requests Int32,
    ADD COLUMN IF NOT EXISTS llm_prompt_tokens Int64,
    ADD COLUMN IF NOT EXISTS llm_completion_tokens Int64,
    ADD COLUMN IF NOT EXISTS llm_seconds Float64;

CREATE OR REPLACE VIEW current_enriched AS
SELECT * FROM calls_enriched FINAL
WHERE (tenant_id, call_id, event_id) IN
(
    SELECT
        tenant_id,
        call_id,
        argMax(event_id, (revision, quotes_current, generation, time, event_id))
    FROM
    (
        SELECT
            tenant_id, call_id, event_id, revision, generation, time,
            (tenant_id, call_id, transcript_id) IN
            (
                SELECT tenant_id, call_id, argMax(event_id, (revision, generation, time, event_id))
                FROM calls_transcribed
                WHERE (tenant_id, generation) NOT IN (SELECT * FROM shadow_generations)
                GROUP BY tenant_id, call_id
            ) AS quotes_current
        FROM calls_enriched
        WHERE (tenant_id, generation) NOT IN (SELECT * FROM shadow_generations)
    )
    GROUP BY tenant_id, call_id
)
COMMENT 'The current CallEnriched of each call: of its newest revision that of its current transcript, if there is one';

CREATE OR REPLACE VIEW call_sentiments AS
SELECT
    tenant_id, call_id, segment_id, role, label, score, engine, text_score, voice_score, voice
FROM sentiments FINAL
WHERE (tenant_id, call_id, event_id) IN (SELECT tenant_id, call_id, event_id FROM current_enriched)
COMMENT 'Sentiment per segment, -1 to 1: of words and voice together, and of each alone';

CREATE OR REPLACE VIEW call_findings AS
SELECT
    tenant_id, call_id, finding_id, kind, label, role, quote, start_ms, end_ms, segment_ids, rule,
    rule_version, engine, confidence, event_id AS enrichment_id, suggestion
FROM findings FINAL
WHERE (tenant_id, call_id, event_id) IN (SELECT tenant_id, call_id, event_id FROM current_enriched)
COMMENT 'What was heard, with the words it rests on';

CREATE OR REPLACE VIEW call_criteria AS
SELECT
    tenant_id, call_id, criterion_id, title, verdict, weight, reason, suggestion, quotes, start_ms,
    end_ms, segment_ids, engine
FROM criteria FINAL
WHERE (tenant_id, call_id, event_id) IN (SELECT tenant_id, call_id, event_id FROM current_enriched)
COMMENT 'What the score consists of';

CREATE OR REPLACE VIEW call_score_changes AS
SELECT
    tenant_id, call_id, rule, rule_version, points, reason, quotes, start_ms, end_ms, segment_ids
FROM score_changes FINAL
WHERE (tenant_id, call_id, event_id) IN (SELECT tenant_id, call_id, event_id FROM current_enriched)
COMMENT 'What rules add to the score or take from it';

CREATE OR REPLACE VIEW call_keywords AS
SELECT tenant_id, call_id, text, role, weight, count
FROM keywords FINAL
WHERE (tenant_id, call_id, event_id) IN (SELECT tenant_id, call_id, event_id FROM current_enriched)
COMMENT 'Words that stand out';

CREATE OR REPLACE VIEW call_statements AS
SELECT tenant_id, call_id, kind, text, quotes, start_ms, end_ms, segment_ids
FROM statements FINAL
WHERE (tenant_id, call_id, event_id) IN (SELECT tenant_id, call_id, event_id FROM current_enriched)
COMMENT 'What an LLM states: intent, demand, answer, follow-ups; each with what it rests on';

CREATE OR REPLACE VIEW call_redactions AS
SELECT tenant_id, call_id, segment_id, kind, start_char, end_char, start_ms, end_ms
FROM redactions FINAL
WHERE (tenant_id, call_id, event_id) IN (SELECT tenant_id, call_id, event_id FROM current_enriched)
COMMENT 'What is personal, by place';
