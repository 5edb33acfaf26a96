"""Where recordings are fetched from, and from where they are not."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from schemas.events import Recording, RecordingStatus
from services.ingest.fetch import Fetch, redacted
from services.ingest.settings import Credential, IngestSettings, S3Source
from services.runtime.errors import Failure, Invalid, NotYet
from services.runtime.objects import S3Objects
from tests.ingest.hosts import Answer, Host, recording_host
from tests.runtime import s3_server

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
LOCAL = IngestSettings(allow_private=True, connect_timeout_s=2, read_timeout_s=2)


@pytest.fixture(scope="module")
def running() -> Iterator[Host]:
    with recording_host() as host:
        yield host


@pytest.fixture
def host(running: Host) -> Host:
    running.answers.clear()
    running.asked.clear()
    return running


def recording(uri: str | None, **changes: object) -> Recording:
    return Recording(
        recording_id="r1",
        status=RecordingStatus.AVAILABLE,
        uri=uri,
        **changes,  # type: ignore[arg-type]
    )


def failure(fetch: Fetch, to: Path, uri: str | None, **changes: object) -> Failure:
    with pytest.raises(Failure) as caught:
        fetch(recording(uri, **changes), to)
    return caught.value


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "fetched"


def test_a_recording_arrives_whole(host: Host, to: Path) -> None:
    body = os.urandom(300_000)
    uri = host.serve("/call.wav", body)
    digest = hashlib.sha256(body).hexdigest()
    got = Fetch(LOCAL)(recording(uri + "?sig=1", sha256=digest.upper(), size_bytes=300_000), to)
    assert (got.sha256, got.size_bytes) == (digest, 300_000)
    assert to.read_bytes() == body


@pytest.mark.parametrize(
    "changes", [{"sha256": "0" * 64}, {"size_bytes": 3}, {"size_bytes": 0}], ids=str
)
def test_a_wrong_checksum(host: Host, to: Path, changes: dict[str, object]) -> None:
    problem = failure(Fetch(LOCAL), to, host.serve("/call.wav", b"body"), **changes)
    assert isinstance(problem, Invalid)
    assert problem.reason == "checksum_mismatch"


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (202, NotYet, "not_there"),
        (401, NotYet, "not_allowed"),
        (403, NotYet, "not_allowed"),
        (404, NotYet, "not_there"),
        (408, NotYet, "busy"),
        (409, NotYet, "busy"),
        (423, NotYet, "busy"),
        (425, NotYet, "busy"),
        (429, NotYet, "busy"),
        (500, NotYet, "host_failed"),
        (503, NotYet, "host_failed"),
        (400, Invalid, "http_status"),
        (410, Invalid, "gone"),
        (451, Invalid, "http_status"),
        (206, Invalid, "http_status"),
        (304, Invalid, "http_status"),
    ],
)
def test_what_a_status_means(
    host: Host, to: Path, status: int, kind: type[Failure], reason: str
) -> None:
    problem = failure(Fetch(LOCAL), to, host.serve("/call.wav", Answer(status)))
    assert (type(problem), problem.reason) == (kind, reason)


@pytest.mark.parametrize(
    ("value", "after_s"),
    [
        ("120", 120.0),
        ("Mon, 02 Mar 2026 10:05:00 GMT", 300.0),
        ("Mon, 02 Mar 2026 09:00:00 GMT", 0.0),
        ("soon", None),
    ],
)
def test_retry_after(host: Host, to: Path, value: str, after_s: float | None) -> None:
    uri = host.serve("/call.wav", Answer(429, headers={"Retry-After": value}))
    problem = failure(Fetch(LOCAL, clock=lambda: NOW), to, uri)
    assert isinstance(problem, NotYet)
    assert problem.after_s == after_s


def test_nobody_listens(to: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}/call.wav"
        problem = failure(Fetch(LOCAL), to, uri)
    assert (type(problem), problem.reason) == (NotYet, "unreachable_host")


def test_a_name_that_cannot_be_resolved(to: Path) -> None:
    def resolve(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    problem = failure(Fetch(LOCAL, resolve), to, "https://recordings.example.com/call.wav")
    assert (type(problem), problem.reason) == (NotYet, "unreachable_host")


def test_a_host_that_says_nothing(to: Path) -> None:
    settings = LOCAL.model_copy(update={"read_timeout_s": 0.2})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}/call.wav"
        problem = failure(Fetch(settings), to, uri)
    assert (type(problem), problem.reason) == (NotYet, "unreachable_host")


def test_a_fetch_that_takes_too_long(to: Path) -> None:
    settings = LOCAL.model_copy(update={"fetch_timeout_s": 0.2})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}/call.wav"
        problem = failure(Fetch(settings), to, uri)
    assert (type(problem), problem.reason) == (NotYet, "too_slow")


def test_a_body_that_breaks_off(host: Host, to: Path) -> None:
    uri = host.serve("/call.wav", Answer(body=b"only this", claims_length=1000))
    problem = failure(Fetch(LOCAL), to, uri)
    assert (type(problem), problem.reason) == (NotYet, "broken_off")


@pytest.mark.parametrize("claims", [None, 500])
def test_more_bytes_than_allowed(host: Host, to: Path, claims: int | None) -> None:
    settings = LOCAL.model_copy(update={"max_bytes": 100})
    uri = host.serve("/call.wav", Answer(body=b"x" * 500, claims_length=claims))
    assert failure(Fetch(settings), to, uri).reason == "too_many_bytes"


# --- addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host_name",
    ["127.0.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "[::1]",
     "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "localhost", "169.254.169.254", "2852039166",
     "0xa9fea9fe", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "10.0.0.1"],
)  # fmt: skip
def test_every_spelling_of_an_inner_address(host: Host, to: Path, host_name: str) -> None:
    host.serve("/call.wav", b"secret")
    problem = failure(Fetch(IngestSettings()), to, host.url("/call.wav", host_name))
    # Some spellings are no URL at all.
    assert isinstance(problem, Invalid)
    assert problem.reason in ("forbidden_address", "bad_uri")
    assert host.asked == []


def test_an_allowed_host_may_be_inside(host: Host, to: Path) -> None:
    settings = IngestSettings(allowed_hosts=("pbx.internal",))
    host.serve("/call.wav", b"audio")
    fetch = Fetch(settings, lambda name, port: ["127.0.0.1"])
    fetch(recording(host.url("/call.wav", "pbx.internal")), to)
    assert to.read_bytes() == b"audio"
    assert host.asked[0][1]["Host"] == f"pbx.internal:{host.port}"
    assert failure(fetch, to, host.url("/call.wav", "other.internal")).reason == "forbidden_address"


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fd00:ec2::254", "168.63.129.16", "fe80::1", "224.0.0.1"]
)
def test_an_allowed_host_may_not_be_metadata(
    to: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: object, **__: object) -> None:
        raise AssertionError(f"{address} was to be connected to")

    # Were the address let through, the test would fail without reaching out to it.
    monkeypatch.setattr("httpcore.SyncBackend.connect_tcp", connect)
    settings = IngestSettings(allowed_hosts=("pbx.internal",))
    problem = failure(Fetch(settings, lambda name, port: [address]), to, "http://pbx.internal/a")
    assert (type(problem), problem.reason) == (Invalid, "forbidden_address")
    assert "allowed_hosts" not in problem.detail


def test_one_forbidden_address_among_good_ones(to: Path) -> None:
    fetch = Fetch(IngestSettings(), lambda name, port: ["8.8.8.8", "10.0.0.1"])
    assert failure(fetch, to, "http://mixed.example.com/a").reason == "forbidden_address"


def test_a_name_that_changes_its_address_is_looked_up_once(host: Host, to: Path) -> None:
    """What was checked is what is connected to: a second look could say something else."""
    answers = iter([["127.0.0.1"], ["169.254.169.254"]])
    fetch = Fetch(LOCAL, lambda name, port: next(answers))
    host.serve("/call.wav", b"audio")
    fetch(recording(host.url("/call.wav", "rebind.example.com")), to)
    assert to.read_bytes() == b"audio"
    # The next fetch looks again, and is refused.
    problem = failure(fetch, to, host.url("/call.wav", "rebind.example.com"))
    assert problem.reason == "forbidden_address"


def test_a_redirect_to_a_name_that_turned_inwards(host: Host, to: Path) -> None:
    answers = iter([["127.0.0.1"], ["169.254.169.254"]])
    host.serve("/a", Answer(302, headers={"Location": host.url("/b", "rebind.example.com")}))
    fetch = Fetch(LOCAL, lambda name, port: next(answers))
    problem = failure(fetch, to, host.url("/a", "rebind.example.com"))
    assert problem.reason == "forbidden_address"
    assert host.asked_for("/b") == 0


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest/meta-data", "//[fe80::1]/"])
def test_a_redirect_inwards(host: Host, to: Path, target: str) -> None:
    uri = host.serve("/call.wav", Answer(302, headers={"Location": target}))
    assert failure(Fetch(LOCAL), to, uri).reason == "forbidden_address"


def test_redirects_are_followed_up_to_a_limit(host: Host, to: Path) -> None:
    host.serve("/b", b"audio")
    Fetch(LOCAL)(recording(host.serve("/a", Answer(307, headers={"Location": "/b"}))), to)
    assert to.read_bytes() == b"audio"
    uri = host.serve("/loop", Answer(302, headers={"Location": "/loop"}))
    assert failure(Fetch(LOCAL), to, uri).reason == "too_many_redirects"
    assert host.asked_for("/loop") == LOCAL.max_redirects + 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://host/a", "gopher://host/1"])
def test_a_redirect_to_another_scheme(host: Host, to: Path, target: str) -> None:
    uri = host.serve("/call.wav", Answer(302, headers={"Location": target}))
    assert failure(Fetch(LOCAL), to, uri).reason == "scheme"


@pytest.mark.parametrize(
    "target", ["http://xn--/", "http://é..com/", "//é..com/", "http://a:b/", "x" * 65_537]
)
def test_a_redirect_to_what_is_no_url(host: Host, to: Path, target: str) -> None:
    uri = host.serve("/call.wav", Answer(302, headers={"Location": target}))
    problem = failure(Fetch(LOCAL), to, uri)
    assert (type(problem), problem.reason) == (Invalid, "bad_uri")
    assert len(problem.detail) < 500


def test_proxies_of_the_environment_are_not_used(
    host: Host, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    Fetch(LOCAL)(recording(host.serve("/call.wav", b"audio")), to)
    assert to.read_bytes() == b"audio"


# --- TLS, with a certificate made for the test ------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"), "pbx.example.com")


def make_certificate(folder: Path, name: str) -> Path:
    """A PEM file with key and self-signed certificate for `name`."""
    from datetime import timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "host.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture(scope="module")
def tls_running(certificate: Path) -> Iterator[Host]:
    def wrap(server: ThreadingHTTPServer) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)

    with recording_host(wrap) as host:
        yield host


def test_the_certificate_is_asked_for_the_name_not_the_address(
    tls_running: Host, certificate: Path, to: Path
) -> None:
    settings = LOCAL.model_copy(update={"ca_file": certificate})
    fetch = Fetch(settings, lambda name, port: ["127.0.0.1"])
    tls_running.serve("/call.wav", b"audio")
    fetch(recording(f"https://pbx.example.com:{tls_running.port}/call.wav"), to)
    assert to.read_bytes() == b"audio"
    problem = failure(fetch, to, f"https://other.example.com:{tls_running.port}/call.wav")
    assert (type(problem), problem.reason) == (NotYet, "bad_certificate")


def test_an_unknown_authority_is_not_trusted(tls_running: Host, to: Path) -> None:
    fetch = Fetch(LOCAL, lambda name, port: ["127.0.0.1"])
    problem = failure(fetch, to, f"https://pbx.example.com:{tls_running.port}/call.wav")
    assert problem.reason == "bad_certificate"


def test_no_redirect_from_https_to_http(
    tls_running: Host, host: Host, certificate: Path, to: Path
) -> None:
    settings = LOCAL.model_copy(update={"ca_file": certificate})
    target = host.serve("/call.wav", b"audio")
    tls_running.serve("/call.wav", Answer(302, headers={"Location": target}))
    fetch = Fetch(settings, lambda name, port: ["127.0.0.1"])
    uri = f"https://pbx.example.com:{tls_running.port}/call.wav"
    assert failure(fetch, to, uri).reason == "downgrade"


def test_an_unreadable_ca_file_fails_at_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ingest\.ca_file"):
        Fetch(IngestSettings(ca_file=tmp_path / "none.pem"))


# --- credentials ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("credential", "name", "value"),
    [
        ({"kind": "bearer"}, "Authorization", "Bearer hush"),
        ({"kind": "basic", "username": "me"}, "Authorization", "Basic bWU6aHVzaA=="),
        ({"kind": "header", "header": "X-Api-Key"}, "X-Api-Key", "hush"),
    ],
)
def test_credentials_are_shown_to_their_host_only(
    tls_running: Host,
    certificate: Path,
    to: Path,
    credential: dict[str, str],
    name: str,
    value: str,
) -> None:
    made = Credential(secret=SecretStr("hush"), hosts=("pbx.example.com",), **credential)
    settings = LOCAL.model_copy(update={"credentials": {"pbx": made}, "ca_file": certificate})
    fetch = Fetch(settings, lambda name, port: ["127.0.0.1"])
    tls_running.serve("/call.wav", b"audio")
    tls_running.asked.clear()
    base = f"https://pbx.example.com:{tls_running.port}"
    fetch(recording(f"{base}/call.wav", credential_ref="pbx"), to)
    assert tls_running.asked[0][1][name] == value


def test_credentials_go_to_no_other_host(host: Host, to: Path) -> None:
    made = Credential(kind="bearer", secret=SecretStr("hush"), hosts=("pbx.example.com",))
    settings = LOCAL.model_copy(update={"credentials": {"pbx": made}})
    fetch = Fetch(settings, lambda name, port: ["127.0.0.1"])
    host.serve("/call.wav", b"audio")
    for name in ("thief.example.com", "pbx.example.com"):  # the second: http, not https
        fetch(recording(host.url("/call.wav", name), credential_ref="pbx"), to)
    assert [headers.get("Authorization") for _, headers in host.asked] == [None, None]


def test_a_credential_that_is_not_set_up_waits(host: Host, to: Path) -> None:
    problem = failure(Fetch(LOCAL), to, host.serve("/a", b"x"), credential_ref="pbx")
    assert (type(problem), problem.reason) == (NotYet, "unknown_credential")
    assert "ingest.credentials" in problem.detail


@pytest.mark.parametrize(
    "uri", ["http://me:hush@127.0.0.1:1/a?token=hush", "https://hush@recordings.example.com/a"]
)
def test_credentials_in_urls_are_refused_and_not_repeated(to: Path, uri: str) -> None:
    problem = failure(Fetch(LOCAL), to, uri)
    assert problem.reason == "credentials_in_url"
    assert "hush" not in str(problem)


def test_signed_urls_are_not_repeated(host: Host, to: Path) -> None:
    host.serve("/call.wav", Answer(404))
    assert "hush" not in str(failure(Fetch(LOCAL), to, host.url("/call.wav?sig=hush")))
    assert redacted("https://me:hush@host/path?sig=hush#hush") == "https://host/path"


# --- files ------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "recordings"
    root.mkdir()
    (root / "call one.wav").write_bytes(b"audio")
    (tmp_path / "secret").write_bytes(b"secret")
    return root


def as_path(path: Path) -> str:
    return str(path)


@pytest.mark.parametrize("spell", [as_path, Path.as_uri])
def test_files_under_an_allowed_root(root: Path, to: Path, spell: Callable[[Path], str]) -> None:
    fetch = Fetch(IngestSettings(allowed_roots=(root,)))
    fetch(recording(spell(root / "call one.wav")), to)
    assert to.read_bytes() == b"audio"
    problem = failure(fetch, to, spell(root / "later.wav"))
    assert (type(problem), problem.reason) == (NotYet, "not_there")


def test_a_file_that_takes_too_long(root: Path, to: Path) -> None:
    fetch = Fetch(IngestSettings(allowed_roots=(root,), fetch_timeout_s=1e-9))
    problem = failure(fetch, to, str(root / "call one.wav"))
    assert (type(problem), problem.reason) == (NotYet, "too_slow")


def test_files_elsewhere(root: Path, to: Path) -> None:
    (root / "link.wav").symlink_to(root.parent / "secret")
    (root / "folder").symlink_to(root.parent)
    os.mkfifo(root / "pipe.wav")
    fetch = Fetch(IngestSettings(allowed_roots=(root,)))
    for path in (root.parent / "secret", root / "../secret", root / "link.wav", root,
                 root / "folder/secret", root / "pipe.wav", Path("/etc/passwd")):  # fmt: skip
        problem = failure(fetch, to, str(path))
        assert (type(problem), problem.reason) == (Invalid, "path_not_allowed")
    assert failure(fetch, to, f"file://{root}/%2e%2e/secret").reason == "path_not_allowed"
    assert failure(fetch, to, "file://elsewhere/a").reason == "bad_uri"
    assert failure(fetch, to, f"file://{root}/a%00b").reason == "path_not_allowed"


def test_no_files_unless_a_root_is_allowed(root: Path, to: Path) -> None:
    problem = failure(Fetch(IngestSettings()), to, str(root / "call one.wav"))
    assert problem.reason == "path_not_allowed"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        (None, "no_uri"),
        ("", "no_uri"),
        ("call.wav", "scheme"),
        ("sftp://host/a", "scheme"),
        ("ftp://host/a", "scheme"),
        ("data:audio/wav;base64,AAAA", "scheme"),
        ("http:///a", "bad_uri"),
        ("http://host:port/", "bad_uri"),
        ("http://xn--/", "bad_uri"),
        ("s3://elsewhere/a", "unknown_bucket"),
    ],
)
def test_what_is_not_fetched(to: Path, uri: str | None, reason: str) -> None:
    problem = failure(Fetch(LOCAL), to, uri)
    assert (type(problem), problem.reason) == (Invalid, reason)


NOWHERE = Fetch(IngestSettings(), lambda host, port: [])


@given(st.text(max_size=60))
def test_any_uri_is_refused_or_waits(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    to = tmp_path_factory.getbasetemp() / "any"
    for uri in (text, f"http://{text}", f"https://{text}/", f"s3://{text}", f"file://{text}"):
        assert isinstance(failure(NOWHERE, to, uri), Invalid | NotYet)


# --- s3 ---------------------------------------------------------------------------------------


@pytest.mark.s3
def test_recordings_in_a_bucket(to: Path) -> None:
    with s3_server.moto() as endpoint:
        theirs = S3Objects(endpoint, "theirs", access_key="a", secret_key="b", secure=False)
        theirs.check(create=True)
        theirs.put("2026/call one+.wav", b"audio")
        source = S3Source(
            endpoint=endpoint, access_key="a", secret_key=SecretStr("b"), secure=False
        )
        fetch = Fetch(IngestSettings(s3={"theirs": source}))
        fetch(recording("s3://theirs/2026/call%20one+.wav"), to)
        assert to.read_bytes() == b"audio"
        problem = failure(fetch, to, "s3://theirs/none")
        assert (type(problem), problem.reason) == (NotYet, "not_there")
        small = Fetch(IngestSettings(s3={"theirs": source}, max_bytes=3))
        assert failure(small, to, "s3://theirs/2026/call one+.wav").reason == "too_many_bytes"


def test_a_bucket_that_does_not_answer(to: Path) -> None:
    source = S3Source(endpoint="127.0.0.1:1", secure=False)
    problem = failure(Fetch(IngestSettings(s3={"theirs": source})), to, "s3://theirs/a")
    assert (type(problem), problem.reason) == (NotYet, "unreachable_host")
