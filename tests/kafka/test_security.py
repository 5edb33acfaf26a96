"""Logins and TLS against a real broker that asks for both."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr, ValidationError

from services.runtime.errors import Transient
from services.runtime.kafka_client import KafkaSettings
from services.runtime.kafka_log import KafkaLog
from services.runtime.kafka_view import KafkaView
from services.runtime.log import Record
from stack.broker import Broker, BrokerError
from tests.kafka.fixtures import absent
from tests.kafka.members import after, take

_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"


@dataclass
class Authority:
    """Signs certificates, all of which are written into a folder as PEM."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.folder.name)])
        self.file = self._write("ca.pem", self._signed(self._name, self._key, authority=True))

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return (
            self._write(f"{name}.pem", self._signed(subject, key, authority=False)),
            self._write(f"{name}.key", private),
        )

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool
    ) -> bytes:
        now = dt.datetime.now(dt.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM)

    def _write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path


@dataclass
class Guarded:
    """A broker that wants a login and a certificate, and how one gets in."""

    broker: Broker
    settings: dict[str, Any]
    stranger: Authority

    def open(self, **changes: Any) -> KafkaSettings:
        return KafkaSettings(**(self.settings | changes))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("certificates")
    ours = Authority(folder / "ours")
    theirs, key = ours.issue("broker")
    certificate, own_key = ours.issue("callstream")

    def pem(path: Path) -> str:
        return path.read_text().strip().replace("\n", "\\n")

    listener = "listener.name.clients."
    broker = Broker(
        settings={
            "listener.security.protocol.map": "CLIENTS:SASL_SSL,INNER:PLAINTEXT,"
            "CONTROLLER:PLAINTEXT",
            f"{listener}sasl.enabled.mechanisms": "PLAIN",
            f"{listener}plain.sasl.jaas.config": f'{_LOGIN} user_stage="s3cret";',
            f"{listener}ssl.client.auth": "required",
            f"{listener}ssl.keystore.type": "PEM",
            f"{listener}ssl.keystore.certificate.chain": pem(theirs),
            f"{listener}ssl.keystore.key": pem(key),
            f"{listener}ssl.truststore.type": "PEM",
            f"{listener}ssl.truststore.certificates": pem(ours.file),
        }
    )
    try:
        broker.start()
    except BrokerError as error:
        absent(error)
    yield Guarded(
        broker,
        {
            "bootstrap": broker.bootstrap,
            "security_protocol": "sasl_ssl",
            "sasl_mechanism": "PLAIN",
            "username": "stage",
            "password": SecretStr("s3cret"),
            "ca_file": ours.file,
            "cert_file": certificate,
            "key_file": own_key,
            "replication_factor": 1,
            "request_timeout_s": 5.0,
        },
        Authority(folder / "strangers"),
    )
    broker.close()


@pytest.mark.kafka
def test_who_has_login_and_certificate_reads_and_commits(guarded: Guarded) -> None:
    settings = guarded.open(session_timeout_s=6.0)
    view = KafkaView(settings)
    view.create({"private": 1})
    with closing(KafkaLog(settings, "g", ["private"])) as log:
        log.commit([Record("private", b"k", b"said")], {})
        got = take(log, 1)
        log.commit([], after(got))
    assert view.committed("g") == after(got)


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"password": SecretStr("guess")}, "CALLSTREAM_LOG__KAFKA__PASSWORD"),
        ({"sasl_mechanism": "SCRAM-SHA-512"}, "CALLSTREAM_LOG__KAFKA__SASL_MECHANISM"),
        ({"cert_file": None, "key_file": None}, "CALLSTREAM_LOG__KAFKA__CERT_FILE"),
        ({"ca_file": "strangers"}, "CALLSTREAM_LOG__KAFKA__CA_FILE"),
    ],
    ids=["password", "mechanism", "no certificate", "authority"],
)
def test_who_is_refused_is_told_what_to_check(
    guarded: Guarded, wrong: dict[str, Any], told: str
) -> None:
    if "ca_file" in wrong:
        wrong = {"ca_file": guarded.stranger.file}
    settings = guarded.open(**wrong)
    for ask in (
        lambda: KafkaView(settings).partitions(),
        lambda: KafkaLog(settings, "g", ["private"]),
    ):
        with pytest.raises(Transient, match=told) as refused:
            ask()
        assert refused.value.reason == "log_refused"
        for secret in ("s3cret", "guess"):
            assert secret not in str(refused.value)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"security_protocol": "sasl_ssl"}, "username"),
        ({"security_protocol": "sasl_ssl", "username": "stage"}, "password"),
        ({"username": "stage", "password": "s3cret"}, "sasl_ssl"),
        ({"ca_file": __file__}, "without TLS"),
        ({"security_protocol": "ssl", "cert_file": __file__}, "key_file"),
        ({"security_protocol": "ssl", "ca_file": "/none"}, "ca_file"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_at_the_start(
    values: dict[str, str], told: str
) -> None:
    with pytest.raises(ValidationError, match=told) as refused:
        KafkaSettings(**values)
    assert "s3cret" not in str(refused.value)


def test_a_password_is_shown_nowhere() -> None:
    settings = KafkaSettings(
        security_protocol="sasl_ssl", username="stage", password=SecretStr("s3cret")
    )
    assert "s3cret" not in repr(settings) + settings.model_dump_json()
