-- One row is one thing that an event says; every table but `events` is keyed by the id of its event,
-- so that whatever is inserted twice becomes one row again. Nothing is partitioned: one insert must
-- stay one block, whatever dates a batch holds.
--
-- basis_at decides what an erasure covers: the earlier of (1) the message's own time and (2) the
-- later of published_at and revision of the call that the row rests on.

CREATE TABLE IF NOT EXISTS events
(
    topic LowCardinality(String),
    partition Int32,
    offset Int64,
    event_id String,
    place String COMMENT 'partition-offset of original bytes, which may carry one id many times; empty for events',
    basis_at DateTime64(3, 'UTC'),
    type LowCardinality(String) COMMENT 'record name; empty for original bytes',
    tenant_id LowCardinality(String),
    call_id String,
    generation Int64,
    revision Int64,
    time DateTime64(3, 'UTC') COMMENT 'ce_time, else the time of the message',
    timestamp DateTime64(3, 'UTC') COMMENT 'time of the message',
    key Nullable(String),
    value Nullable(String) COMMENT 'the bytes as read; null for a tombstone',
    dataref String COMMENT 'object key of the body where the value carries it by claim check',
    header_names Array(String),
    header_values Array(String),
    problem_reason LowCardinality(String) COMMENT 'why it could not be decoded; empty where it could',
    problem_detail String,
    INDEX call (tenant_id, call_id) TYPE bloom_filter GRANULARITY 4
)
ENGINE = ReplacingMergeTree
ORDER BY (topic, event_id, tenant_id, call_id, generation, revision, place)
SETTINGS non_replicated_deduplication_window = 1000, index_granularity = 256
COMMENT 'The archive: every event, retry and dead letter of every topic, byte for byte';

CREATE TABLE IF NOT EXISTS renewals
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    basis_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(basis_at)
ORDER BY (tenant_id, call_id, event_id)
SETTINGS non_replicated_deduplication_window = 1000
COMMENT 'Events that came again with a later basis; an erasure in between does not cover them';

CREATE TABLE IF NOT EXISTS calls_ended
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    basis_at DateTime64(3, 'UTC'),
    generation Int64,
    revision Int64,
    time DateTime64(3, 'UTC'),
    started_at DateTime64(3, 'UTC'),
    answered_at Nullable(DateTime64(3, 'UTC')),
    ended_at DateTime64(3, 'UTC'),
    duration_ms Int64,
    talk_ms Nullable(Int64),
    queue_ms Nullable(Int64),
    hold_ms Nullable(Int64),
    acw_ms Nullable(Int64),
    platform LowCardinality(String),
    lane LowCardinality(String),
    direction LowCardinality(String),
    disposition LowCardinality(String),
    disconnected_by LowCardinality(String),
    agent_id LowCardinality(String) COMMENT 'the first agent who took part; empty where unknown',
    agent_name LowCardinality(String),
    agent_ids Array(String) COMMENT 'every agent who took part, in order',
    queue_id LowCardinality(String),
    queue_name LowCardinality(String),
    from_address String,
    to_address String,
    subject_ref String COMMENT 'the customer, by the business''s own id',
    crm_ref String,
    root_call_id String,
    parent_call_id String,
    next_call_id String,
    language_hints Array(String),
    wrap_up_code LowCardinality(String),
    consent LowCardinality(String),
    legal_hold Bool,
    retain_until Nullable(DateTime64(3, 'UTC')),
    recordings Int32 COMMENT 'recordings the platform lists',
    recordings_expected Int32 COMMENT 'of those, the ones that are or may become available',
    no_recording_reason String COMMENT 'why none is expected; empty where one is',
    attributes Map(String, String)
)
ENGINE = ReplacingMergeTree(generation)
ORDER BY (tenant_id, call_id, event_id)
SETTINGS non_replicated_deduplication_window = 1000
COMMENT 'CallEnded: what the platform said of a call';

CREATE TABLE IF NOT EXISTS calls_recorded
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    basis_at DateTime64(3, 'UTC'),
    generation Int64,
    revision Int64,
    time DateTime64(3, 'UTC'),
    recordings Int32,
    refused Int32,
    pending Int32,
    refused_reasons Array(String),
    object_keys Array(String),
    codecs Array(String),
    channels Array(Int32),
    audio_ms Int64 COMMENT 'duration of all recordings together',
    size_bytes Int64
)
ENGINE = ReplacingMergeTree(generation)
ORDER BY (tenant_id, call_id, event_id)
SETTINGS non_replicated_deduplication_window = 1000
COMMENT 'CallRecorded: the audio that is stored';

CREATE TABLE IF NOT EXISTS calls_transcribed
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    basis_at DateTime64(3, 'UTC'),
    generation Int64,
    revision Int64,
    time DateTime64(3, 'UTC'),
    duration_ms Int64,
    engine LowCardinality(String),
    engine_version LowCardinality(String),
    model LowCardinality(String),
    model_revision LowCardinality(String),
    device LowCardinality(String),
    language LowCardinality(String),
    language_confidence Nullable(Float32),
    segments Int32,
    turns Int32 COMMENT 'stretches of consecutive segments of one speaker',
    words Int32,
    speech_ms Int64 COMMENT 'sum of the segments',
    masked_ms Int64,
    flagged Int32 COMMENT 'segments that may not be trusted',
    degradations Array(String),
    cached Bool
)
ENGINE = ReplacingMergeTree(generation)
ORDER BY (tenant_id, call_id, event_id)
SETTINGS non_replicated_deduplication_window = 1000
COMMENT 'CallTranscribed: one row per transcript';

CREATE TABLE IF NOT EXISTS segments
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String COMMENT 'of the CallTranscribed',
    basis_at DateTime64(3, 'UTC'),
    segment_id Int32,
    recording_id String,
    channel Int32,
    speaker LowCardinality(String),
    role LowCardinality(String),
    start_ms Int64,
    end_ms Int64,
    text String,
    language LowCardinality(String),
    confidence Nullable(Float32),
    flags Array(String),
    words Array(String),
    word_start_ms Array(Int64),
    word_end_ms Array(Int64),
    word_confidence Array(Float32) COMMENT 'as long as words, or empty',
    words_interpolated Bool
)
ENGINE = ReplacingMergeTree
ORDER BY (tenant_id, call_id, event_id, segment_id)
SETTINGS non_replicated_deduplication_window = 1000
COMMENT 'Stretches of one speaker; words are parallel arrays, one row per word costs several times more';

CREATE TABLE IF NOT EXISTS calls_enriched
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    basis_at DateTime64(3, 'UTC'),
    generation Int64,
    revision Int64,
    time DateTime64(3, 'UTC'),
    transcript_id String,
    language LowCardinality(String),
    rules_version LowCardinality(String),
    score Nullable(Float64) COMMENT '0 to 100; null where the call cannot be scored',
    scorecard LowCardinality(String),
    scorecard_version LowCardinality(String),
    topics Array(String),
    emotions Array(String),
    alerts Array(String),
    customer_sentiment_start Nullable(Float32) COMMENT '-1 to 1, first quarter in which the customer spoke',
    customer_sentiment_end Nullable(Float32) COMMENT '-1 to 1, last quarter in which the customer spoke',
    customer_sentiment Nullable(Float32) COMMENT '-1 to 1, mean over the customer''s segments',
    agent_sentiment Nullable(Float32) COMMENT '-1 to 1, mean over the agent''s segments',
    summary String,
    summary_method LowCardinality(String),
    summary_version LowCardinality(String),
    summary_degraded String
)
ENGINE = ReplacingMergeTree(generation)
ORDER BY (tenant_id, call_id, event_id)
SETTINGS non_replicated_deduplication_window = 1000
COMMENT 'CallEnriched: one row per enrichment';

CREATE TABLE IF NOT EXISTS metrics
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    basis_at DateTime64(3, 'UTC'),
    ordinal Int32,
    name LowCardinality(String) COMMENT 'ends in its unit',
    role LowCardinality(String) COMMENT 'empty where the metric is of the call',
    value Nullable(Float64) COMMENT 'null where it is not a finite number'
)
ENGINE = ReplacingMergeTree
ORDER BY (tenant_id, call_id, event_id, ordinal)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS moments
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    basis_at DateTime64(3, 'UTC'),
    ordinal Int32,
    kind LowCardinality(String),
    role LowCardinality(String),
    start_ms Int64,
    end_ms Int64,
    segment_ids Array(Int32)
)
ENGINE = ReplacingMergeTree
ORDER BY (tenant_id, call_id, event_id, ordinal)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS sentiments
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    basis_at DateTime64(3, 'UTC'),
    ordinal Int32,
    segment_id Int32,
    role LowCardinality(String),
    label LowCardinality(String),
    score Float32 COMMENT '-1 to 1',
    engine LowCardinality(String)
)
ENGINE = ReplacingMergeTree
ORDER BY (tenant_id, call_id, event_id, ordinal)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS course
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    basis_at DateTime64(3, 'UTC'),
    ordinal Int32,
    quarter Int32 COMMENT '1 to 4',
    role LowCardinality(String),
    label LowCardinality(String),
    score Float32 COMMENT '-1 to 1'
)
ENGINE = ReplacingMergeTree
ORDER BY (tenant_id, call_id, event_id, ordinal)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS findings
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    basis_at DateTime64(3, 'UTC'),
    ordinal Int32,
    finding_id String,
    kind LowCardinality(String),
    label LowCardinality(String),
    role LowCardinality(String),
    segment_ids Array(Int32),
    start_ms Int64,
    end_ms Int64,
    quote String,
    rule LowCardinality(String),
    rule_version LowCardinality(String),
    engine LowCardinality(String),
    confidence Nullable(Float32)
)
ENGINE = ReplacingMergeTree
ORDER BY (tenant_id, call_id, event_id, ordinal)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS criteria
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    basis_at DateTime64(3, 'UTC'),
    ordinal Int32,
    criterion_id LowCardinality(String),
    title LowCardinality(String),
    verdict LowCardinality(String),
    weight Nullable(Float64),
    reason String,
    suggestion String,
    segment_ids Array(Array(Int32)) COMMENT 'of each piece of evidence',
    start_ms Array(Int64),
    end_ms Array(Int64),
    quotes Array(String)
)
ENGINE = ReplacingMergeTree
ORDER BY (tenant_id, call_id, event_id, ordinal)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS summary_sentences
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    basis_at DateTime64(3, 'UTC'),
    ordinal Int32,
    text String,
    segment_ids Array(Int32),
    start_ms Int64,
    end_ms Int64,
    quote String
)
ENGINE = ReplacingMergeTree
ORDER BY (tenant_id, call_id, event_id, ordinal)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS alerts
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    basis_at DateTime64(3, 'UTC'),
    generation Int64,
    revision Int64,
    time DateTime64(3, 'UTC'),
    raised_at DateTime64(3, 'UTC'),
    rule LowCardinality(String),
    rule_version LowCardinality(String),
    severity LowCardinality(String),
    title String,
    reason String,
    suggested_action String,
    agent_id LowCardinality(String),
    queue_id LowCardinality(String),
    segment_ids Array(Array(Int32)) COMMENT 'of each piece of evidence',
    start_ms Array(Int64),
    end_ms Array(Int64),
    quotes Array(String)
)
ENGINE = ReplacingMergeTree(generation)
ORDER BY (tenant_id, call_id, event_id)
SETTINGS non_replicated_deduplication_window = 1000
COMMENT 'AlertRaised';

CREATE TABLE IF NOT EXISTS replays
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    basis_at DateTime64(3, 'UTC'),
    generation Int64 COMMENT 'the generation that was asked for',
    stage LowCardinality(String),
    requested_at DateTime64(3, 'UTC'),
    requested_by String,
    reason String,
    options Map(String, String),
    shadow Bool,
    side_effects Bool
)
ENGINE = ReplacingMergeTree
ORDER BY (tenant_id, call_id, event_id)
SETTINGS non_replicated_deduplication_window = 1000
COMMENT 'ReplayRequested. The latest request of a generation says whether it is a shadow';

CREATE TABLE IF NOT EXISTS stage_states
(
    tenant_id LowCardinality(String),
    call_id String,
    stage LowCardinality(String),
    input_id String COMMENT 'event that the stage was given',
    state LowCardinality(String) COMMENT 'done, waiting, refused, failed, dropped, erased',
    generation Int64,
    attempt Int64,
    basis_at DateTime64(3, 'UTC'),
    revision Int64 COMMENT '0 where the message does not say',
    time DateTime64(3, 'UTC'),
    reason LowCardinality(String),
    detail String,
    due_at Nullable(DateTime64(3, 'UTC')) COMMENT 'when a waiting call is looked at again'
)
ENGINE = ReplacingMergeTree(time)
ORDER BY (tenant_id, call_id, stage, input_id, state, generation, attempt)
SETTINGS non_replicated_deduplication_window = 1000
COMMENT 'What became of a call at a stage, as each message told it';

CREATE TABLE IF NOT EXISTS calls_erased
(
    tenant_id LowCardinality(String),
    call_id String,
    event_id String,
    erased_at DateTime64(3, 'UTC'),
    requested_by String,
    reason String
)
ENGINE = ReplacingMergeTree(erased_at)
ORDER BY (tenant_id, call_id, event_id)
SETTINGS non_replicated_deduplication_window = 1000
COMMENT 'CallErased: what rests on an older basis is not taken in again';
