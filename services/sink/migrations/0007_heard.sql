-- What a transcript says of its voices beside their words. Rows from before say nothing of it.

ALTER TABLE segments ADD COLUMN IF NOT EXISTS overlapped Bool
        COMMENT 'another voice on the same channel spoke during part of it',
    ADD COLUMN IF NOT EXISTS emotion LowCardinality(String)
        COMMENT 'how the voice sounds; empty where the engine does not hear that',
    ADD COLUMN IF NOT EXISTS sounds Array(String) COMMENT 'what else is heard',
    ADD COLUMN IF NOT EXISTS corrections Array(String)
        COMMENT 'what the vocabulary changed: heard → corrected';

ALTER TABLE calls_transcribed ADD COLUMN IF NOT EXISTS unheard_ms Nullable(Int64)
        COMMENT 'voice that no text was made of; null where it is not known',
    ADD COLUMN IF NOT EXISTS diarizer LowCardinality(String)
        COMMENT 'what parted the voices of a shared channel; empty where nothing had to',
    ADD COLUMN IF NOT EXISTS speakers Array(String) COMMENT 'their names',
    ADD COLUMN IF NOT EXISTS speaker_roles Array(String) COMMENT 'in the same order',
    ADD COLUMN IF NOT EXISTS role_confidences Array(Nullable(Float32))
        COMMENT 'in the same order; null where the platform says who it is, or nobody knows',
    ADD COLUMN IF NOT EXISTS vocabulary LowCardinality(String) COMMENT 'empty where none was used',
    ADD COLUMN IF NOT EXISTS vocabulary_version LowCardinality(String);

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

CREATE OR REPLACE VIEW call_segments AS
SELECT
    tenant_id, call_id, segment_id, recording_id, channel, speaker, role, start_ms, end_ms, text,
    language, confidence, flags, length(words) AS words, words_interpolated, event_id AS transcript_id,
    overlapped, emotion, sounds, corrections
FROM segments FINAL
WHERE (tenant_id, call_id, event_id) IN
    (SELECT tenant_id, call_id, event_id FROM current_transcribed)
COMMENT 'Who said what and when; ms since the call''s start';
