"""Names of the headers that messages carry."""

from __future__ import annotations

# CloudEvents, Kafka binding, binary mode.
SPECVERSION = "ce_specversion"
ID = "ce_id"
TYPE = "ce_type"
SOURCE = "ce_source"
SUBJECT = "ce_subject"
TIME = "ce_time"
CAUSATION_ID = "ce_causationid"
GENERATION = "ce_generation"
# Of what a replay makes: "true" where nobody is to see it until its generation is promoted, and
# "on" where alerts and webhooks are to go out all the same.
SHADOW = "ce_shadow"
SIDE_EFFECTS = "ce_sideeffects"
DATAREF = "ce_dataref"
CONTENT_TYPE = "content-type"
TRACEPARENT = "traceparent"

# Dead letters: Kafka Connect's names, so that its tools can read them.
ERROR_TOPIC = "__connect.errors.topic"
ERROR_PARTITION = "__connect.errors.partition"
ERROR_OFFSET = "__connect.errors.offset"
ERROR_STAGE = "__connect.errors.connector.name"
ERROR_CLASS = "__connect.errors.exception.class.name"
ERROR_MESSAGE = "__connect.errors.exception.message"
ERROR_TRACE = "__connect.errors.exception.stacktrace"
# What Connect has no name for.
DEAD_REASON = "callstream.reason"
DEAD_ATTEMPT = "callstream.attempt"
DEAD_AT_MS = "callstream.failed_ms"
# What an operator decided about a dead letter, and which (partition-offset).
DEAD_ACTION = "callstream.dead.action"
DEAD_OF = "callstream.dead.of"

# Which stage a request to replay is to, so that the others need not look into it.
REPLAY_STAGE = "callstream.replay.stage"

# Retries.
RETRY_STAGE = "callstream.retry.stage"
RETRY_REASON = "callstream.retry.reason"
RETRY_DETAIL = "callstream.retry.detail"
RETRY_DUE_MS = "callstream.retry.due_ms"
RETRY_ATTEMPT = "callstream.retry.attempt"
RETRY_FIRST_MS = "callstream.retry.first_ms"
RETRY_TOPIC = "callstream.retry.topic"
# Where a message that waits first stood.
RETRY_PARTITION = "callstream.retry.partition"
RETRY_OFFSET = "callstream.retry.offset"
RETRY_HISTORY = "callstream.retry.history"
