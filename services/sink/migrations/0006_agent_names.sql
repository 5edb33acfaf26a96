-- A call that was passed on is found by the name of every agent who took part, as it is by their ids.
-- Rows from before hold no names but the first, in agent_name.

ALTER TABLE calls_ended ADD COLUMN IF NOT EXISTS agent_names Array(String)
    COMMENT 'their names, in the same order; empty where unknown' AFTER agent_ids;

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
