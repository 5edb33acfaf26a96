-- Which W3C trace an event belongs to: the one its traceparent names, else that of its call, made from
-- the key as the stages make it.

ALTER TABLE events ADD COLUMN IF NOT EXISTS trace_id String MATERIALIZED
    if(
        match(
            header_values[arrayLastIndex(name -> name = 'traceparent', header_names)],
            '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'
        ),
        substring(header_values[arrayLastIndex(name -> name = 'traceparent', header_names)], 4, 32),
        substring(lower(hex(SHA256(if(ifNull(key, '') = '', event_id, assumeNotNull(key))))), 1, 32)
    )
    COMMENT 'W3C trace id; of one call the same on every event, unless the platform says otherwise';

ALTER TABLE events ADD INDEX IF NOT EXISTS trace trace_id TYPE bloom_filter GRANULARITY 4;
