"""Typed events. Generated from the .avsc files by `python -m schemas.generate`."""

from __future__ import annotations
from enum import StrEnum
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias


class Lane(StrEnum):
    LIVE = "LIVE"
    BACKFILL = "BACKFILL"


class Platform(StrEnum):
    OTHER = "OTHER"
    TWILIO = "TWILIO"
    AMAZON_CONNECT = "AMAZON_CONNECT"
    GENESYS_CLOUD = "GENESYS_CLOUD"
    FREESWITCH = "FREESWITCH"
    ASTERISK = "ASTERISK"
    THREECX = "THREECX"
    JAMBONZ = "JAMBONZ"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    platform: Platform
    account_ref: str | None = None
    adapter_version: str = ""
    raw_payload_uri: str | None = None


class Direction(StrEnum):
    UNKNOWN = "UNKNOWN"
    INBOUND = "INBOUND"
    OUTBOUND = "OUTBOUND"
    INTERNAL = "INTERNAL"
    CALLBACK = "CALLBACK"


class Disposition(StrEnum):
    UNKNOWN = "UNKNOWN"
    ANSWERED = "ANSWERED"
    NO_ANSWER = "NO_ANSWER"
    BUSY = "BUSY"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    ABANDONED = "ABANDONED"
    VOICEMAIL = "VOICEMAIL"


class DisconnectedBy(StrEnum):
    UNKNOWN = "UNKNOWN"
    CUSTOMER = "CUSTOMER"
    AGENT = "AGENT"
    SUPERVISOR = "SUPERVISOR"
    THIRD_PARTY = "THIRD_PARTY"
    SYSTEM = "SYSTEM"
    TRANSFER = "TRANSFER"


@dataclass(frozen=True, kw_only=True, slots=True)
class Queue:
    id: str
    name: str | None = None
    enqueued_at: datetime | None = None
    dequeued_at: datetime | None = None


class Role(StrEnum):
    UNKNOWN = "UNKNOWN"
    CUSTOMER = "CUSTOMER"
    AGENT = "AGENT"
    SUPERVISOR = "SUPERVISOR"
    IVR = "IVR"
    BOT = "BOT"
    EXTERNAL = "EXTERNAL"
    VOICEMAIL = "VOICEMAIL"


@dataclass(frozen=True, kw_only=True, slots=True)
class Participant:
    participant_id: str
    role: Role
    agent_id: str | None = None
    display_name: str | None = None
    address: str | None = None
    joined_ms: int | None = None
    left_ms: int | None = None


class SegmentKind(StrEnum):
    UNKNOWN = "UNKNOWN"
    IVR = "IVR"
    QUEUE = "QUEUE"
    RINGING = "RINGING"
    INTERACT = "INTERACT"
    HOLD = "HOLD"
    MUTE = "MUTE"
    TRANSFER = "TRANSFER"
    CONFERENCE = "CONFERENCE"
    SECURE_PAUSE = "SECURE_PAUSE"
    ACW = "ACW"


@dataclass(frozen=True, kw_only=True, slots=True)
class CallSegment:
    kind: SegmentKind
    start_ms: int
    end_ms: int
    participant_id: str | None = None


class RecordingStatus(StrEnum):
    UNKNOWN = "UNKNOWN"
    PENDING = "PENDING"
    AVAILABLE = "AVAILABLE"
    ABSENT = "ABSENT"
    FAILED = "FAILED"
    DELETED = "DELETED"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    recording_id: str
    status: RecordingStatus
    status_reason: str | None = None
    uri: str | None = None
    uri_expires_at: datetime | None = None
    credential_ref: str | None = None
    container: str | None = None
    codec: str | None = None
    sample_rate_hz: int | None = None
    channels: int | None = None
    channel_roles: list[Role] = field(default_factory=list)
    """
    Role of each channel, in order; empty where the platform does not know.
    """
    start_offset_ms: int | None = None
    """
    Where the recording starts, ms since started_at.
    """
    duration_ms: int | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    encryption_key_ref: str | None = None


class Consent(StrEnum):
    UNKNOWN = "UNKNOWN"
    GRANTED = "GRANTED"
    DENIED = "DENIED"
    NOT_REQUIRED = "NOT_REQUIRED"


@dataclass(frozen=True, kw_only=True, slots=True)
class CallEnded:
    """
    A call ended, as the platform sees it; may be amended. At least once, out of order.
    """

    event_id: str
    """
    The platform's own id of this event; the same delivery repeated carries the same id.
    """
    tenant_id: str
    """
    Whose call it is; first half of every record key. No '/' and no control characters.
    """
    call_id: str
    """
    The call within its tenant; second half of every record key.
    """
    occurred_at: datetime
    """
    When the call ended, or was amended, by the platform's clock.
    """
    published_at: datetime
    """
    When this event was published.
    """
    source: Source
    started_at: datetime
    ended_at: datetime
    source_updated_at: datetime | None = None
    """
    When the platform last changed the call. The newer one wins; in ms it is the revision of everything derived. Absent: occurred_at is used.
    """
    lane: Lane = Lane.LIVE
    """
    LIVE goes before BACKFILL.
    """
    source_ids: dict[str, str] = field(default_factory=dict)
    """
    Ids of this call on the platform, by the platform's own names for them.
    """
    parent_call_id: str | None = None
    root_call_id: str | None = None
    next_call_id: str | None = None
    direction: Direction = Direction.UNKNOWN
    from_address: str | None = None
    to_address: str | None = None
    dialed_address: str | None = None
    subject_ref: str | None = None
    """
    The customer, by the business's own id.
    """
    crm_ref: str | None = None
    """
    The case or contact this call belongs to in the CRM.
    """
    answered_at: datetime | None = None
    source_timezone: str | None = None
    talk_ms: int | None = None
    """
    Milliseconds agent and customer were connected.
    """
    queue_ms: int | None = None
    """
    Milliseconds waited in queue.
    """
    hold_ms: int | None = None
    """
    Milliseconds on hold, all holds together.
    """
    acw_ms: int | None = None
    """
    After-call work, ms.
    """
    disposition: Disposition = Disposition.UNKNOWN
    disconnected_by: DisconnectedBy = DisconnectedBy.UNKNOWN
    disconnect_reason_raw: str | None = None
    sip_status: int | None = None
    q850_cause: int | None = None
    queue: Queue | None = None
    participants: list[Participant] = field(default_factory=list)
    """
    Who took part; the number of human parties is the prior for diarization.
    """
    segments: list[CallSegment] = field(default_factory=list)
    """
    Telephony intervals in ms since started_at: hold, IVR and secure pause are masked for speech.
    """
    recordings: list[Recording] = field(default_factory=list)
    """
    Every recording known so far; ingest acts on the AVAILABLE ones.
    """
    language_hints: list[str] = field(default_factory=list)
    """
    BCP 47 tags the platform believes are spoken.
    """
    wrap_up_code: str | None = None
    wrap_up_note: str | None = None
    consent: Consent = Consent.UNKNOWN
    retain_until: datetime | None = None
    legal_hold: bool = False
    mos_min: float | None = None
    """
    Lowest mean opinion score measured, 1.0 to 5.0.
    """
    attributes: dict[str, str] = field(default_factory=dict)
    """
    Anything else the platform said, as text.
    """
    traceparent: str | None = None
    """
    W3C trace context of the platform, if it traces.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """
    Where in the call a finding rests.
    """

    start_ms: int
    """
    Ms since the call's started_at.
    """
    end_ms: int
    segment_ids: list[int] = field(default_factory=list)
    role: Role = Role.UNKNOWN
    quote: str = ""
    """
    The words themselves.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRecording:
    recording_id: str
    object_key: str
    """
    Key in the object store: a content address.
    """
    sha256: str
    """
    Of the stored bytes, lower-case hex.
    """
    size_bytes: int
    container: str
    codec: str
    sample_rate_hz: int
    channels: int
    duration_ms: int
    """
    Measured by decoding, not read from the header.
    """
    channel_roles: list[Role] = field(default_factory=list)
    """
    One per channel, or empty where the platform does not know.
    """
    start_offset_ms: int = 0
    """
    Where it starts, ms since the call's started_at.
    """
    source_uri: str | None = None
    """
    Where it came from, without query string or credentials.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedRecording:
    recording_id: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CallRecorded:
    """
    The recordings of a call that are stored so far. A later revision supersedes.
    """

    tenant_id: str
    call_id: str
    revision: int
    """
    source_updated_at of the CallEnded it follows, ms since the epoch; the greater supersedes.
    """
    recorded_at: datetime
    call: CallEnded
    """
    The call as the platform described it.
    """
    recordings: list[StoredRecording]
    """
    Stored recordings, in the order the platform lists them.
    """
    refused: list[RefusedRecording] = field(default_factory=list)
    """
    Recordings that can never be stored, each with the reason.
    """
    pending: list[str] = field(default_factory=list)
    """
    Ids of recordings still to come.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """
    What made the transcript, exactly enough to make it again.
    """

    name: str
    """
    faster-whisper, pocketsphinx, whisperx, ...
    """
    version: str
    model: str
    model_revision: str = ""
    """
    Content hash or hub revision of the model files.
    """
    device: str = "cpu"
    reason: str = ""
    """
    Why this engine was chosen.
    """
    options: dict[str, str] = field(default_factory=dict)
    """
    The options that changed the result.
    """


class Flag(StrEnum):
    UNKNOWN = "UNKNOWN"
    NO_SPEECH = "NO_SPEECH"
    REPEAT_LOOP = "REPEAT_LOOP"
    LOW_CONFIDENCE = "LOW_CONFIDENCE"
    INSIDE_HOLD = "INSIDE_HOLD"
    INSIDE_SILENCE = "INSIDE_SILENCE"
    TOO_FAST = "TOO_FAST"


class VoiceEmotion(StrEnum):
    UNKNOWN = "UNKNOWN"
    NEUTRAL = "NEUTRAL"
    HAPPY = "HAPPY"
    SAD = "SAD"
    ANGRY = "ANGRY"
    FEARFUL = "FEARFUL"
    DISGUSTED = "DISGUSTED"
    SURPRISED = "SURPRISED"


class Sound(StrEnum):
    UNKNOWN = "UNKNOWN"
    MUSIC = "MUSIC"
    APPLAUSE = "APPLAUSE"
    LAUGHTER = "LAUGHTER"
    CRYING = "CRYING"
    COUGH = "COUGH"
    SNEEZE = "SNEEZE"
    BREATH = "BREATH"


@dataclass(frozen=True, kw_only=True, slots=True)
class Correction:
    word: int
    """
    Index in words of the first corrected word.
    """
    heard: str
    corrected: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    segment_id: int
    """
    0, 1, 2 ... within this transcript.
    """
    recording_id: str
    channel: int
    speaker: str
    """
    Name of the speaker within the call: 'agent', 'customer', 'speaker_0' ...
    """
    role: Role
    start_ms: int
    end_ms: int
    text: str
    language: str = "und"
    confidence: float | None = None
    """
    Mean word probability, 0.0 to 1.0; null where the engine gives none.
    """
    flags: list[Flag] = field(default_factory=list)
    """
    Why this segment may not be trusted.
    """
    words: list[str] = field(default_factory=list)
    """
    Word texts; the arrays beside it have the same length.
    """
    word_start_ms: list[int] = field(default_factory=list)
    word_end_ms: list[int] = field(default_factory=list)
    word_confidence: list[float] = field(default_factory=list)
    """
    0.0 to 1.0 each; empty where the engine gives none.
    """
    words_interpolated: bool = False
    """
    True where word times were spread over the segment, not heard.
    """
    overlapped: bool = False
    """
    True where another voice on the same channel spoke during at least part of it.
    """
    emotion: VoiceEmotion = VoiceEmotion.UNKNOWN
    """
    How the voice sounds, where the engine hears that; UNKNOWN elsewhere.
    """
    sounds: list[Sound] = field(default_factory=list)
    """
    What else is heard, where the engine hears that.
    """
    corrections: list[Correction] = field(default_factory=list)
    """
    Words that the vocabulary put in place of what the engine heard.
    """
    loudness_dbfs: float | None = None
    """
    Mean power of its channel in dB below full scale, which is 0; compares within a channel alone. Null where it was not measured, and of digital silence.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class Masked:
    kind: SegmentKind
    start_ms: int
    end_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelHeard:
    recording_id: str
    channel: int
    role: Role
    speech_ms: int
    """
    Milliseconds in which a voice was detected.
    """
    same_as_channel: int | None = None
    """
    Set where this channel carries the same audio as an earlier one (dual mono).
    """
    unheard_ms: int | None = None
    """
    Of speech_ms, what lies in no segment: a voice that no text was made of. Null where it is not known.
    """


class DegradationKind(StrEnum):
    UNKNOWN = "UNKNOWN"
    NO_ALIGNMENT = "NO_ALIGNMENT"
    NO_DIARIZATION = "NO_DIARIZATION"
    NO_ROLES = "NO_ROLES"
    LANGUAGE_UNSUPPORTED = "LANGUAGE_UNSUPPORTED"
    DUAL_MONO = "DUAL_MONO"
    ENGINE_FALLBACK = "ENGINE_FALLBACK"
    NO_VOCABULARY = "NO_VOCABULARY"


@dataclass(frozen=True, kw_only=True, slots=True)
class Degradation:
    kind: DegradationKind
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Speaker:
    name: str
    """
    As in Segment.speaker.
    """
    role: Role
    speech_ms: int
    """
    Sum of its segments.
    """
    role_confidence: float | None = None
    """
    0.0 to 1.0; null where the role is given by the platform, or unknown.
    """
    role_reason: str = ""
    """
    What the role was told from: channel, participants, phrases, ...
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyUsed:
    name: str
    version: str
    """
    Hash of its content.
    """
    terms: list[str] = field(default_factory=list)
    """
    Words that were passed to the engine.
    """
    prompt: str = ""
    """
    Text that was passed to the engine.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class CallTranscribed:
    """
    Who said what and when, by which engine, and what could not be done.
    """

    tenant_id: str
    call_id: str
    revision: int
    """
    As in CallRecorded.
    """
    transcribed_at: datetime
    call: CallEnded
    recordings: list[StoredRecording]
    """
    The recordings this transcript was made from.
    """
    duration_ms: int
    """
    From the call's start to the end of the last recording.
    """
    engine: Engine
    language: str
    """
    BCP 47 tag of most of the speech; 'und' where none could be told.
    """
    segments: list[Segment]
    """
    Ordered by start_ms, then channel. Times in ms since the call's started_at.
    """
    language_confidence: float | None = None
    """
    0.0 to 1.0; null where the engine gives none.
    """
    masked: list[Masked] = field(default_factory=list)
    """
    Stretches not transcribed, ms since the call's started_at.
    """
    channels: list[ChannelHeard] = field(default_factory=list)
    """
    What was heard on each channel.
    """
    degradations: list[Degradation] = field(default_factory=list)
    """
    What could not be done, and why.
    """
    cached: bool = False
    """
    True where the engine did not run because the same audio had been transcribed with the same engine, model and options.
    """
    speakers: list[Speaker] = field(default_factory=list)
    """
    Who speaks, by the names that segments carry.
    """
    diarizer: str = ""
    """
    What parted the voices of a shared channel, with its version and model; empty where nothing had to.
    """
    vocabulary: VocabularyUsed | None = None
    """
    The vocabulary that was used; null where there was none.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    name: str
    value: float
    role: Role | None = None
    """
    Null where the metric is of the call.
    """


class MomentKind(StrEnum):
    UNKNOWN = "UNKNOWN"
    SILENCE = "SILENCE"
    OVERLAP = "OVERLAP"
    SLOW_RESPONSE = "SLOW_RESPONSE"
    TURN_WORSE = "TURN_WORSE"
    TURN_BETTER = "TURN_BETTER"


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    kind: MomentKind
    start_ms: int
    end_ms: int
    role: Role | None = None
    """
    Who should have spoken, who spoke into the other, or whose feeling turned.
    """
    segment_ids: list[int] = field(default_factory=list)
    """
    The segments beside it.
    """


class SentimentLabel(StrEnum):
    UNKNOWN = "UNKNOWN"
    NEGATIVE = "NEGATIVE"
    NEUTRAL = "NEUTRAL"
    POSITIVE = "POSITIVE"


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentSentiment:
    segment_id: int
    role: Role
    label: SentimentLabel
    score: float
    """
    -1.0 (negative) to 1.0 (positive).
    """
    engine: str
    """
    What told: lexicon, or a model's name; with voice, what told of each.
    """
    text_score: float | None = None
    """
    What the words say alone, -1.0 to 1.0; null where nothing can be told of them.
    """
    voice_score: float | None = None
    """
    What the voice says alone, -1.0 to 1.0; null where the speech engine tells nothing of it.
    """
    voice: str = ""
    """
    The emotion the speech engine heard in the voice, in lower case; empty where none.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class CoursePoint:
    quarter: int
    """
    1 to 4.
    """
    role: Role
    label: SentimentLabel
    score: float
    """
    -1.0 to 1.0, mean over the speech of that quarter.
    """


class FindingKind(StrEnum):
    UNKNOWN = "UNKNOWN"
    EMOTION = "EMOTION"
    TOPIC = "TOPIC"
    RULE = "RULE"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """
    One thing heard in the call.
    """

    finding_id: str
    """
    Deterministic within the call.
    """
    kind: FindingKind
    label: str
    """
    The class within its kind: dissatisfied, refund, ...
    """
    role: Role
    evidence: Evidence
    rule: str
    """
    The lexicon or rule that found it.
    """
    rule_version: str
    engine: str
    confidence: float | None = None
    """
    0.0 to 1.0; null for exact matches.
    """
    suggestion: str = ""
    """
    What the rule suggests to do; empty for what is only heard.
    """


class Verdict(StrEnum):
    UNKNOWN = "UNKNOWN"
    MET = "MET"
    NOT_MET = "NOT_MET"
    NOT_APPLICABLE = "NOT_APPLICABLE"


@dataclass(frozen=True, kw_only=True, slots=True)
class Criterion:
    criterion_id: str
    title: str
    verdict: Verdict
    weight: float
    reason: str
    evidence: list[Evidence] = field(default_factory=list)
    suggestion: str = ""
    engine: str = "rules"
    """
    What judged: rules, or an LLM's name.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreChange:
    rule: str
    rule_version: str
    points: float
    """
    -100.0 to 100.0.
    """
    reason: str
    evidence: list[Evidence] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityScore:
    value: float
    """
    0.0 to 100.0: weight met over weight applicable, and what rules add to or take from it.
    """
    scorecard: str
    scorecard_version: str
    criteria: list[Criterion]
    changes: list[ScoreChange] = field(default_factory=list)
    """
    What rules added to or took from the share of weight met, in order.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class SummarySentence:
    text: str
    evidence: Evidence


class StatementKind(StrEnum):
    UNKNOWN = "UNKNOWN"
    INTENT = "INTENT"
    DEMAND = "DEMAND"
    ANSWER = "ANSWER"
    RESOLUTION = "RESOLUTION"
    FOLLOW_UP = "FOLLOW_UP"
    IMPROVEMENT = "IMPROVEMENT"
    WORDING = "WORDING"


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    kind: StatementKind
    text: str
    evidence: list[Evidence]


class Answered(StrEnum):
    UNKNOWN = "UNKNOWN"
    YES = "YES"
    PARTLY = "PARTLY"
    NO = "NO"


class Resolution(StrEnum):
    UNKNOWN = "UNKNOWN"
    RESOLVED = "RESOLVED"
    UNRESOLVED = "UNRESOLVED"
    FOLLOW_UP = "FOLLOW_UP"


@dataclass(frozen=True, kw_only=True, slots=True)
class LlmUsage:
    requests: int
    prompt_tokens: int
    """
    As the server counts them; 0 where it does not.
    """
    completion_tokens: int
    """
    As prompt_tokens.
    """
    seconds: float
    """
    From each request to its answer, all together.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    method: str
    """
    extractive, or the LLM's name.
    """
    version: str
    """
    Of the prompt or the algorithm.
    """
    sentences: list[SummarySentence]
    degraded: str = ""
    """
    Why a lesser method was used; empty where it was the one asked for.
    """
    statements: list[Statement] = field(default_factory=list)
    """
    What an LLM says beside the summary, each with the segments it rests on; what rests on none is left out.
    """
    answered: Answered = Answered.UNKNOWN
    """
    Whether the agent's answer met the demand.
    """
    resolution: Resolution = Resolution.UNKNOWN
    dropped: int = 0
    """
    Statements and sentences left out because they rested on nothing that was said.
    """
    usage: LlmUsage | None = None
    """
    What the LLM took; null where none was asked.
    """
    pending: bool = False
    """
    True where an LLM is still to be asked: what it says of the same transcript comes in a CallEnriched of its own, which supersedes this one.
    """


class PiiKind(StrEnum):
    UNKNOWN = "UNKNOWN"
    NAME = "NAME"
    PHONE = "PHONE"
    ID_NUMBER = "ID_NUMBER"
    CARD_NUMBER = "CARD_NUMBER"
    EMAIL = "EMAIL"
    ADDRESS = "ADDRESS"
    NUMBER = "NUMBER"


@dataclass(frozen=True, kw_only=True, slots=True)
class Redaction:
    segment_id: int
    kind: PiiKind
    start: int
    """
    Character of the segment's text, from 0; a character is a Unicode code point.
    """
    end: int
    """
    The character after the last.
    """
    start_ms: int
    """
    Ms since the call's started_at, of the words that hold it.
    """
    end_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Keyword:
    text: str
    role: Role
    """
    Who said it most.
    """
    weight: float
    """
    0.0 to 1.0, the most telling word of the call at 1.0.
    """
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CallEnriched:
    """
    What a call was about, how it felt, how well it was handled; every finding with its evidence.
    """

    tenant_id: str
    call_id: str
    revision: int
    """
    As in CallRecorded.
    """
    enriched_at: datetime
    call: CallEnded
    transcript_id: str
    """
    Event id of the CallTranscribed this was made from.
    """
    language: str
    rules_version: str
    """
    Names the lexicons, rules and scorecard used: <declared version>+<first 12 hex digits of the hash of their contents>.
    """
    metrics: list[Metric] = field(default_factory=list)
    """
    Conversation metrics, each with its unit in its name.
    """
    moments: list[Moment] = field(default_factory=list)
    """
    Stretches worth hearing: silences, overlaps, slow responses, and where a role's feeling turned.
    """
    sentiments: list[SegmentSentiment] = field(default_factory=list)
    """
    One per segment of a human.
    """
    course: list[CoursePoint] = field(default_factory=list)
    """
    Sentiment per quarter of the call and role.
    """
    findings: list[Finding] = field(default_factory=list)
    score: QualityScore | None = None
    """
    Null where the call cannot be scored (no agent was heard).
    """
    summary: Summary | None = None
    alerts: list[str] = field(default_factory=list)
    """
    Rules that raised an alert; each is an AlertRaised of its own.
    """
    redactions: list[Redaction] = field(default_factory=list)
    """
    What of the transcript's text is personal, by place: the words themselves are not here. Ordered by segment_id and start.
    """
    keywords: list[Keyword] = field(default_factory=list)
    """
    Words that stand out in the call, the most telling first.
    """


class Severity(StrEnum):
    UNKNOWN = "UNKNOWN"
    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    CRITICAL = "CRITICAL"


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertRaised:
    """
    A call needs a person now.
    """

    tenant_id: str
    call_id: str
    revision: int
    """
    As in CallRecorded.
    """
    raised_at: datetime
    rule: str
    rule_version: str
    severity: Severity
    title: str
    reason: str
    evidence: list[Evidence] = field(default_factory=list)
    suggested_action: str = ""
    agent_id: str | None = None
    queue_id: str | None = None
    call_published_at: datetime | None = None
    """
    published_at of the CallEnded it rests on: what an erasure is compared with.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class OriginalHeader:
    name: str
    value: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class OriginalInput:
    topic: str
    event_id: str
    value: bytes | None = None
    dataref: str | None = None
    headers: list[OriginalHeader] = field(default_factory=list)
    """
    Headers of the original message; empty where they are not known.
    """
    timestamp: datetime | None = None
    """
    Time of the original message.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayRequested:
    """
    Run one stage again for one call.
    """

    tenant_id: str
    call_id: str
    requested_at: datetime
    requested_by: str
    stage: str
    """
    ingest, transcribe, enrich or sink.
    """
    generation: int
    """
    1 or more; each replay has its own.
    """
    input: OriginalInput
    """
    The stage's original input: the bytes themselves, or where they lie.
    """
    reason: str = ""
    options: dict[str, str] = field(default_factory=dict)
    """
    Settings of the stage that this replay overrides.
    """
    shadow: bool = False
    """
    Computed and stored, shown to nobody until promoted.
    """
    side_effects: bool = False
    """
    Whether alerts and webhooks go out.
    """


class Decision(StrEnum):
    UNKNOWN = "UNKNOWN"
    PROMOTED = "PROMOTED"
    DISCARDED = "DISCARDED"


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationDecided:
    """
    What becomes of a shadow generation, for all its calls at once. The latest decision counts.
    """

    tenant_id: str
    generation: int
    decided_at: datetime
    decided_by: str
    decision: Decision = Decision.UNKNOWN
    """
    PROMOTED: readers see it. DISCARDED: nobody ever does.
    """
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallErased:
    """
    Everything held about a call is to be forgotten.
    """

    tenant_id: str
    call_id: str
    erased_at: datetime
    requested_by: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallReviewed:
    """
    A person judges a call, or one criterion of its score. Of each call and criterion the latest counts, whatever is computed again.
    """

    tenant_id: str
    call_id: str
    reviewed_at: datetime
    reviewed_by: str
    criterion_id: str = ""
    """
    The criterion that is judged; empty: the score as a whole.
    """
    verdict: Verdict = Verdict.UNKNOWN
    """
    Of a criterion; UNKNOWN where the whole is judged.
    """
    score: float | None = None
    """
    Of the whole, 0.0 to 100.0; null where a criterion is judged.
    """
    withdrawn: bool = False
    """
    Takes back what was judged: what is computed counts again.
    """
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallNotified:
    """
    An endpoint outside has taken an event of a call, or has another in its place. What it refuses for good is a dead letter of the stage notify.ENDPOINT.
    """

    tenant_id: str
    call_id: str
    revision: int
    """
    As in CallRecorded.
    """
    endpoint: str
    """
    Its name in the file of endpoints.
    """
    event_id: str
    """
    The event it has taken, or was to take.
    """
    record: str
    """
    AlertRaised or CallEnriched.
    """
    notified_at: datetime
    rule: str = ""
    """
    Of an alert; else empty.
    """
    attempts: int = 1
    """
    Requests it took, the last included, as far as one process knows; 0 where it has another in its place.
    """
    answer: str = ""
    """
    What it said, such as its HTTP status.
    """
    overtaken_by: str | None = None
    """
    The event that it has in place of this one, which it was not sent: of enriched calls a later one, of alerts one of the same call and rule. Null where it has taken this one.
    """
    call_published_at: datetime | None = None
    """
    published_at of the CallEnded it rests on: what an erasure is compared with.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class SummaryRequested:
    """
    A language model is to be asked about a live call whose alerts are out already.
    """

    tenant_id: str
    call_id: str
    revision: int
    """
    As in CallRecorded.
    """
    requested_at: datetime
    transcript_id: str
    """
    Event id of the CallTranscribed.
    """
    transcript: CallTranscribed
    alerts: list[str] | None = None
    """
    Rules of the alerts that were raised of it. Null where it is not known.
    """


Model: TypeAlias = (
    CallEnded
    | Evidence
    | CallRecorded
    | CallTranscribed
    | CallEnriched
    | AlertRaised
    | ReplayRequested
    | GenerationDecided
    | CallErased
    | CallReviewed
    | CallNotified
    | SummaryRequested
)
