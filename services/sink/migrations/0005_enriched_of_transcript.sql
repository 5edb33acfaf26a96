-- What is found in a call quotes its transcript: of a revision's enrichments one that was made from
-- the current transcript is current, before any of a later generation that was made from another.
-- Without that, findings would name segments that readers are not shown, where enrichments were
-- replayed beside a replay of transcripts, or a promotion is taken back.

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
COMMENT 'The current CallEnriched of each call';
