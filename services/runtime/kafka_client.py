"""How Kafka is reached: settings, the client's configuration, and what its errors mean here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import AdminClient
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FilePath,
    SecretStr,
    ValidationInfo,
    field_validator,
)

from services.runtime.errors import Transient
from services.runtime.log import Message

# More than clients (1,000,000 bytes) and brokers (1,048,588) take by default.
LARGEST_RECORD_BYTES = 2 * 1_048_576
_KEY = "CALLSTREAM_LOG__KAFKA__"
_LOGIN = (
    f"check {_KEY}USERNAME, {_KEY}PASSWORD and {_KEY}SASL_MECHANISM against the brokers' users, "
    f"and {_KEY}SECURITY_PROTOCOL against the listener that {_KEY}BOOTSTRAP names"
)
_CERTIFICATES = (
    f"check {_KEY}CA_FILE (who signed the brokers' certificates), that the host names in "
    f"{_KEY}BOOTSTRAP are those of the certificates, {_KEY}CERT_FILE and {_KEY}KEY_FILE where the "
    "brokers ask for them, and that the listener speaks TLS"
)
_RIGHTS = "ask for the right: the brokers' ACLs lack it for this user"
_NO_ANSWER = (
    f"if the brokers are up, check {_KEY}BOOTSTRAP, and that {_KEY}SECURITY_PROTOCOL is what that "
    "listener speaks"
)
# What the brokers refuse, and what a person is to look at.
REFUSALS = {
    KafkaError._AUTHENTICATION: _LOGIN,
    KafkaError.SASL_AUTHENTICATION_FAILED: _LOGIN,
    KafkaError.UNSUPPORTED_SASL_MECHANISM: _LOGIN,
    KafkaError._SSL: _CERTIFICATES,
    KafkaError.TOPIC_AUTHORIZATION_FAILED: f"{_RIGHTS} (Read, Write and Describe of the topics)",
    KafkaError.GROUP_AUTHORIZATION_FAILED: f"{_RIGHTS} (Read of groups callstream.*)",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: (
        f"{_RIGHTS} (Write and Describe of transactional ids callstream.* and writer-*)"
    ),
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: f"{_RIGHTS} (of the cluster)",
}
# Errors that say that nothing came, and not why.
_SILENCES = frozenset(
    {
        KafkaError._TIMED_OUT, KafkaError._TIMED_OUT_QUEUE, KafkaError._MSG_TIMED_OUT,
        KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN,
    }
)  # fmt: skip


class KafkaSettings(BaseModel):
    """How to reach Kafka, and how a member behaves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap: str = Field("localhost:9092", description="host:port of some brokers, by commas.")
    security_protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = Field(
        "plaintext", description="ssl: TLS. sasl_*: with a login."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="How to log in; others are set in extra."
    )
    username: str = Field("", description="Who logs in, with sasl_*.", validate_default=True)
    password: SecretStr | None = Field(
        None, description="Belongs to username.", validate_default=True
    )
    ca_file: FilePath | None = Field(
        None, description="PEM file of who signed the brokers' certificates; absent: the system's."
    )
    cert_file: FilePath | None = Field(
        None, description="PEM file of our certificate, where the brokers ask for one."
    )
    key_file: FilePath | None = Field(
        None, description="PEM file of the key of cert_file.", validate_default=True
    )
    key_password: SecretStr | None = Field(None, description="Of key_file, where it has one.")
    group_protocol: Literal["classic", "consumer"] = Field(
        "classic",
        description="classic: cooperative-sticky, any broker. consumer: KIP-848, Kafka 4.0 and "
        "newer; session times are the broker's.",
    )
    session_timeout_s: float = Field(
        30.0, gt=0, description="A member that is silent for this long is dead (classic only)."
    )
    group_instance_id: str = Field(
        "",
        pattern=r"^[-._A-Za-z0-9]{0,200}$",
        description="A name of this replica that it keeps over restarts and no other has, such as "
        "a StatefulSet's pod: killed, it goes on at once where it was, instead of after "
        "session_timeout_s and transaction_timeout_s (classic only).",
    )
    poll_timeout_s: float = Field(
        120.0,
        gt=0,
        description="A member that does not ask for messages for this long is out of its group. "
        "Nor does one that joins wait longer for the broker's answer (classic).",
    )
    transaction_timeout_s: float = Field(
        30.0, gt=0, description="A commit takes no longer; the broker aborts it after that."
    )
    request_timeout_s: float = Field(
        15.0, gt=0, description="How long to wait for the broker's answer to a question."
    )
    statistics_s: float = Field(
        15.0, ge=0.1, description="How often the client's own figures become metrics."
    )
    replication_factor: int = Field(3, ge=1, description="Copies of each topic that is created.")
    extra: dict[str, str] = Field(
        default_factory=dict,
        repr=False,
        description="librdkafka options for every client, such as sasl.oauthbearer.*. What has a "
        "setting of its own, and what delivery rests on, cannot be set here.",
    )

    @field_validator("group_instance_id")
    @classmethod
    def _classic_has_names(cls, name: str, known: ValidationInfo) -> str:
        if name and known.data.get("group_protocol") != "classic":
            raise ValueError("only with group_protocol=classic: unset one of the two")
        return name

    @field_validator("poll_timeout_s")
    @classmethod
    def _polls_within_its_session(cls, seconds: float, known: ValidationInfo) -> float:
        session_s = known.data.get("session_timeout_s", 0.0)
        if known.data.get("group_protocol") == "classic" and seconds < session_s:
            raise ValueError(f"session_timeout_s={session_s:g} is longer: the client refuses that")
        return seconds

    # A wrong value is shown with its error: none of these refuses a password that is there.

    @field_validator("username")
    @classmethod
    def _login_is_wanted(cls, username: str, known: ValidationInfo) -> str:
        protocol = str(known.data.get("security_protocol"))
        if protocol.startswith("sasl") and not username:
            raise ValueError(f"security_protocol={protocol} needs a username")
        if username and not protocol.startswith("sasl"):
            raise ValueError(f"security_protocol={protocol} knows no login: set sasl_ssl")
        return username

    @field_validator("password")
    @classmethod
    def _login_is_whole(cls, password: SecretStr | None, known: ValidationInfo) -> SecretStr | None:
        protocol = str(known.data.get("security_protocol"))
        if protocol.startswith("sasl") and password is None:
            raise ValueError(f"security_protocol={protocol} needs a password")
        return password

    @field_validator("ca_file", "cert_file", "key_file")
    @classmethod
    def _tls_is_used(cls, path: FilePath | None, known: ValidationInfo) -> FilePath | None:
        protocol = str(known.data.get("security_protocol"))
        if path is not None and not protocol.endswith("ssl"):
            raise ValueError(f"security_protocol={protocol} is without TLS: set ssl or sasl_ssl")
        return path

    @field_validator("key_file")
    @classmethod
    def _key_and_certificate(cls, key: FilePath | None, known: ValidationInfo) -> FilePath | None:
        certificate = known.data.get("cert_file")
        if (key is None) != (certificate is None):
            raise ValueError(f"goes with cert_file, which is {certificate}: set both, or neither")
        return key


class Connection:
    """What the clients of one owner share: their configuration, and what they complained of."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self._complaint: KafkaError | None = None

    def config(self) -> dict[str, Any]:
        """The options every client starts from."""
        settings = self.settings
        named: dict[str, Any] = {"bootstrap.servers": settings.bootstrap}
        if settings.security_protocol != "plaintext":
            named["security.protocol"] = settings.security_protocol
        if settings.username and settings.password is not None:
            named["sasl.mechanisms"] = settings.sasl_mechanism
            named["sasl.username"] = settings.username
            named["sasl.password"] = settings.password.get_secret_value()
        for option, path in (
            ("ssl.ca.location", settings.ca_file),
            ("ssl.certificate.location", settings.cert_file),
            ("ssl.key.location", settings.key_file),
        ):
            if path is not None:
                named[option] = str(path)
        if settings.key_password is not None:
            named["ssl.key.password"] = settings.key_password.get_secret_value()
        return {
            # Errors come back through exceptions and callbacks; the client's own lines repeat it.
            "log_level": 2,
            "allow.auto.create.topics": False,
            # Of the wait after an outage; the default is 10 s.
            "reconnect.backoff.max.ms": 3_000,
            "error_cb": self.heard,
            **settings.extra,
            **named,
        }

    def heard(self, error: KafkaError) -> None:
        """What a client says of its connections: the cause, where later calls only time out."""
        if _mend(error):
            self._complaint = error

    @contextmanager
    def answered(self) -> Iterator[None]:
        """What the client raises, as `Transient` with the brokers' address.

        A setting that it refuses is a ValueError instead: waiting would not mend it.
        """
        try:
            yield
        except (KafkaException, SystemError) as failure:
            if (told := client_error(failure)) is None:
                raise
            raise self._transient(told) from failure
        else:
            self._complaint = None

    def _transient(self, error: KafkaError) -> Transient:
        if error.code() == KafkaError._INVALID_ARG:
            raise ValueError(f"the Kafka client refuses its settings: {error.str()}")
        if self._complaint is not None and error.code() in _SILENCES:
            error = self._complaint
        what = f"{self.settings.bootstrap}: {error.name()}: {error.str()}"
        if mend := _mend(error):
            return Transient("log_refused", f"{what}; {mend}")
        if error.code() in _SILENCES:
            what += f"; {_NO_ANSWER}"
        return Transient("log_down", what)

    def admin(self) -> AdminClient:
        """A client that asks and creates."""
        # As for producers: a group's coordinator is cached even when its connection was ended.
        return AdminClient({**self.config(), "metadata.recovery.strategy": "none"})

    def topics(self, admin: AdminClient) -> dict[str, int]:
        """Topic name -> number of partitions, without Kafka's own topics."""
        try:
            found = admin.list_topics(timeout=self.settings.request_timeout_s).topics
        except KafkaException:
            admin.poll(0)  # what it complained of
            raise
        return {
            name: len(topic.partitions)
            for name, topic in found.items()
            if topic.error is None and not name.startswith("__")
        }


def _mend(error: KafkaError) -> str:
    """What a person is to look at; empty where waiting is enough."""
    # A certificate that is refused, or missing, is told after the handshake, as a broken line.
    if error.code() == KafkaError._TRANSPORT and "SSL routines" in error.str():
        return _CERTIFICATES
    return REFUSALS.get(error.code(), "")


def client_error(failure: BaseException) -> KafkaError | None:
    """The client's error in `failure`.

    After a fatal error callbacks run with the exception already set, which Python takes for a bug
    of the callback: the error is then the cause of a SystemError.
    """
    if isinstance(failure, SystemError) and failure.__cause__ is not None:
        failure = failure.__cause__
    return failure.args[0] if isinstance(failure, KafkaException) else None


def milliseconds(seconds: float) -> int:
    """As options of the client are written; at least 1."""
    return max(1, round(seconds * 1000))


def message_of(raw: KafkaMessage) -> Message:
    """A message of the client's, under no lease."""
    topic, partition, offset = raw.topic(), raw.partition(), raw.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    headers: Any = raw.headers() or ()
    return Message(
        topic,
        partition,
        offset,
        raw.key(),
        raw.value(),
        tuple((name, b"" if value is None else value) for name, value in headers),
        raw.timestamp()[1],
    )
