-- What people read of a transcript is masked where enrich found something personal, and empty until
-- enrich has looked at it. What is masked is told by CallEnriched, so a replay of enrich changes it.

CREATE OR REPLACE VIEW personal_places AS
SELECT c.tenant_id AS tenant_id, c.call_id AS call_id, c.transcript_id AS transcript_id, places
FROM
(
    SELECT tenant_id, call_id, event_id, transcript_id FROM current_enriched
) AS c
LEFT JOIN
(
    SELECT
        tenant_id, call_id, event_id,
        groupUniqArray((
            segment_id, start_char, end_char, start_ms, end_ms,
            concat('[', replaceAll(lower(kind), '_', ' '), ']')
        )) AS places
    FROM redactions
    GROUP BY tenant_id, call_id, event_id
) AS r ON c.tenant_id = r.tenant_id AND c.call_id = r.call_id AND c.event_id = r.event_id
COMMENT 'What is personal in the current transcript of a call: segment, from and to character, from and to ms, and what is shown instead; no row until enrich has looked';

CREATE OR REPLACE VIEW call_segments AS
SELECT
    s.tenant_id AS tenant_id,
    s.call_id AS call_id,
    segment_id, recording_id, channel, speaker, role, start_ms, end_ms,
    multiIf(
        p.transcript_id = '', '',
        empty(own), raw,
        concat(
            arrayStringConcat(
                arrayMap(
                    (place, before) -> concat(
                        substringUTF8(raw, before + 1, greatest(place.2 - before, 0)), place.6
                    ),
                    arraySort(place -> place.2, arrayFilter(place -> place.1 = segment_id, places)) AS own,
                    arrayPushFront(arrayPopBack(arrayMap(place -> place.3, own)), 0)
                )
            ),
            substringUTF8(raw, own[-1].3 + 1)
        )
    ) AS text,
    language, confidence, flags, length(words) AS words, words_interpolated,
    s.event_id AS transcript_id, overlapped, emotion, sounds,
    if(p.transcript_id != '' AND empty(own), made, []) AS corrections
FROM
(
    SELECT * EXCEPT (text, corrections), text AS raw, corrections AS made
    FROM segments FINAL
    WHERE (tenant_id, call_id, event_id) IN
        (SELECT tenant_id, call_id, event_id FROM current_transcribed)
) AS s
LEFT JOIN personal_places AS p
    ON s.tenant_id = p.tenant_id AND s.call_id = p.call_id AND s.event_id = p.transcript_id
COMMENT 'Who said what and when; ms since the call''s start. What is personal is masked; the text is empty until enrich has looked for that';

CREATE OR REPLACE VIEW call_words AS
SELECT
    s.tenant_id AS tenant_id,
    s.call_id AS call_id,
    segment_id, role, speaker, word_id,
    multiIf(
        p.transcript_id = '', '',
        -- A word without length lies on the edge of what holds it.
        arrayFirst(
            place -> place.1 = segment_id AND (
                (start_ms < place.5 AND end_ms > place.4)
                OR (start_ms >= place.4 AND end_ms <= place.5)
            ),
            places
        ).6 AS instead != '', instead,
        raw
    ) AS word,
    start_ms, end_ms, confidence, interpolated
FROM
(
    SELECT
        tenant_id, call_id, event_id, segment_id, role, speaker, number - 1 AS word_id,
        words[number] AS raw, word_start_ms[number] AS start_ms, word_end_ms[number] AS end_ms,
        if(empty(word_confidence), NULL, word_confidence[number]) AS confidence,
        words_interpolated AS interpolated
    FROM segments FINAL
    ARRAY JOIN arrayEnumerate(words) AS number
    WHERE (tenant_id, call_id, event_id) IN
        (SELECT tenant_id, call_id, event_id FROM current_transcribed)
) AS s
LEFT JOIN personal_places AS p
    ON s.tenant_id = p.tenant_id AND s.call_id = p.call_id AND s.event_id = p.transcript_id
COMMENT 'Words with their times, ms since the call''s start; empty where the sink does not keep words. Masked as call_segments are';
