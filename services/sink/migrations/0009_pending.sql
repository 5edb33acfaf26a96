-- A call that a language model is asked about is enriched twice: at once, and with its summary.

ALTER TABLE calls_enriched ADD COLUMN IF NOT EXISTS summary_pending Bool
        COMMENT 'whether an LLM''s summary is still to come';

CREATE OR REPLACE VIEW current_enriched AS
SELECT * FROM calls_enriched FINAL
WHERE (tenant_id, call_id, event_id) IN
(
    SELECT
        tenant_id,
        call_id,
        argMax(
            event_id,
            (revision, quotes_current, generation, NOT summary_pending, time, event_id)
        )
    FROM
    (
        SELECT
            tenant_id, call_id, event_id, revision, generation, time, summary_pending,
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
COMMENT 'The current CallEnriched of each call: of its newest revision that of its current transcript, if there is one; with the summary that was asked for, once it is there';
