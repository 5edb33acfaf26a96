-- What customers ask to be different, over many calls.

CREATE OR REPLACE VIEW customer_requests AS
SELECT
    f.tenant_id AS tenant_id,
    f.call_id AS call_id,
    c.started_at AS started_at,
    c.queue AS queue,
    c.language AS language,
    c.topics AS topics,
    c.customer_sentiment AS customer_sentiment,
    s.text AS said,
    f.quote AS quote,
    f.start_ms AS start_ms,
    f.end_ms AS end_ms
FROM (SELECT * FROM call_findings WHERE label = 'asks_for_change') AS f
INNER JOIN calls AS c ON f.tenant_id = c.tenant_id AND f.call_id = c.call_id
LEFT JOIN call_segments AS s
    ON f.tenant_id = s.tenant_id AND f.call_id = s.call_id AND s.segment_id = f.segment_ids[1]
COMMENT 'What customers ask to be different, as found by the rule asks_for_change: the words that told it, and all that was said there, what is personal masked';

CREATE OR REPLACE VIEW requests_by_topic AS
SELECT
    tenant_id,
    toStartOfWeek(started_at, 1) AS week,
    topic,
    uniqExact(call_id) AS calls,
    count() AS requests,
    groupArray(10)(said) AS examples
FROM customer_requests
ARRAY JOIN if(empty(topics), ['none'], topics) AS topic
GROUP BY tenant_id, week, topic
COMMENT 'Wishes of customers by what their call was about, per week from Monday (UTC), with up to ten of them; none: calls without a topic';
