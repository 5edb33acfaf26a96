"""One conformance suite over every object store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.runtime.errors import Invalid, Transient
from services.runtime.objects import DirectoryObjects, MissingObject, Objects, S3Objects
from tests.runtime import s3_server


def s3_objects(
    endpoint: str,
    bucket: str = "calls",
    access_key: str = s3_server.ACCESS_KEY,
    secret_key: str = s3_server.SECRET_KEY,
) -> S3Objects:
    return S3Objects(
        endpoint,
        bucket,
        access_key=access_key,
        secret_key=secret_key,
        secure=False,
        connect_timeout_s=2,
        read_timeout_s=20,
        attempts=1,
    )


def unavailable(reason: s3_server.Unavailable) -> None:
    """In CI a server that cannot be had is a failure."""
    if os.environ.get("CI") == "true":
        raise reason
    pytest.skip(str(reason))


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with s3_server.moto() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def versitygw() -> Iterator[str]:
    try:
        server = s3_server.versitygw()
        endpoint = server.__enter__()
    except s3_server.Unavailable as reason:
        unavailable(reason)
        return
    try:
        yield endpoint
    finally:
        server.__exit__(None, None, None)


@pytest.fixture(
    params=[
        "directory",
        pytest.param("moto", marks=pytest.mark.s3),
        pytest.param("versitygw", marks=pytest.mark.s3),
    ]
)
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "directory":
        return DirectoryObjects(tmp_path / "objects")
    store = s3_objects(request.getfixturevalue(request.param))
    store.check(create=True)
    for key in list(store.keys()):
        store.delete(key)
    return store


def test_what_is_put_can_be_got(objects: Objects, tmp_path: Path) -> None:
    objects.put("audio/acme/ab/abc", b"heard")
    assert objects.get("audio/acme/ab/abc") == b"heard"
    assert objects.exists("audio/acme/ab/abc")
    path = tmp_path / "fetched"
    objects.get_file("audio/acme/ab/abc", path)
    assert path.read_bytes() == b"heard"


def test_an_object_may_be_empty(objects: Objects, tmp_path: Path) -> None:
    objects.put("empty", b"")
    assert objects.get("empty") == b""
    path = tmp_path / "empty"
    objects.get_file("empty", path)
    assert path.read_bytes() == b""


def test_writing_again_is_harmless(objects: Objects) -> None:
    objects.put("key", b"first")
    objects.put("key", b"second")
    assert objects.get("key") == b"second"
    assert list(objects.keys()) == ["key"]


@pytest.mark.parametrize("size", [0, 1, 33 << 20])
def test_files_of_any_size(objects: Objects, tmp_path: Path, size: int) -> None:
    path, back = tmp_path / "file", tmp_path / "back"
    path.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    objects.put_file("large/file", path)
    objects.get_file("large/file", back)
    assert back.read_bytes() == path.read_bytes()


def test_keys_are_listed_in_order_by_prefix(objects: Objects) -> None:
    for key in ("b/2", "a/2", "a/1", "ab/1", "a-b"):
        objects.put(key, b"x")
    assert list(objects.keys()) == ["a-b", "a/1", "a/2", "ab/1", "b/2"]
    assert list(objects.keys("a/")) == ["a/1", "a/2"]
    assert list(objects.keys("a")) == ["a-b", "a/1", "a/2", "ab/1"]
    assert list(objects.keys("none/")) == []


def test_what_is_not_there(objects: Objects, tmp_path: Path) -> None:
    path = tmp_path / "fetched"
    for ask in (lambda: objects.get("none"), lambda: objects.get_file("none", path)):
        with pytest.raises(MissingObject):
            ask()
    assert not path.exists()
    assert not objects.exists("none")
    objects.delete("none")


def test_a_deleted_object_is_gone(objects: Objects) -> None:
    objects.put("a/key", b"x")
    objects.delete("a/key")
    assert not objects.exists("a/key")
    assert list(objects.keys()) == []


def test_a_file_that_is_not_there_cannot_be_put(objects: Objects, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        objects.put_file("key", tmp_path / "none")
    assert not objects.exists("key")


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", "../a", "a/./b", "ä", "a\nb", "a" * 256, "a/" + "b" * 256 + "/c",
     "/".join("a" * 200 for _ in range(6))],
)  # fmt: skip
def test_what_is_no_key(objects: Objects, tmp_path: Path, key: str) -> None:
    asks: list[Callable[[], object]] = [
        lambda: objects.put(key, b"x"),
        lambda: objects.get(key),
        lambda: objects.get_file(key, tmp_path / "file"),
        lambda: objects.exists(key),
        lambda: objects.delete(key),
    ]
    for ask in asks:
        with pytest.raises(Invalid, match="object_key"):
            ask()


def test_many_threads_share_a_store(objects: Objects) -> None:
    def turn(number: int) -> bytes:
        objects.put(f"threads/{number}", str(number).encode() * 1000)
        return objects.get(f"threads/{number}")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(turn, range(24))) == [str(n).encode() * 1000 for n in range(24)]


PARTS = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/"), min_size=1,
    max_size=40,
).filter(lambda part: part not in (".", ".."))  # fmt: skip


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(parts=st.lists(PARTS, min_size=1, max_size=4), data=st.binary(max_size=200))
def test_any_key_holds_any_bytes(objects: Objects, parts: list[str], data: bytes) -> None:
    # A key of another depth lies elsewhere: no key is ever the folder of another.
    key = "/".join([f"any{len(parts)}", *parts])
    objects.put(key, data)
    assert objects.get(key) == data
    assert list(objects.keys(key)) == [key]
    objects.delete(key)


def test_directory_that_cannot_be_written(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path)
    (tmp_path / ".incoming").rmdir()
    (tmp_path / ".incoming").write_text("in the way")
    with pytest.raises(Transient):
        objects.put("key", b"x")


def test_directory_survives_a_crash_between_writing_and_placing(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path)
    (tmp_path / ".incoming" / "half").write_bytes(b"hal")
    assert list(objects.keys()) == []
    objects.put("key", b"whole")
    assert DirectoryObjects(tmp_path).get("key") == b"whole"


def test_a_store_that_does_not_answer_is_waited_for(tmp_path: Path) -> None:
    store = s3_objects("127.0.0.1:1")
    path = tmp_path / "file"
    path.write_bytes(b"x")
    asks: list[Callable[[], object]] = [
        store.check,
        lambda: store.put("key", b"x"),
        lambda: store.put_file("key", path),
        lambda: store.get("key"),
        lambda: store.get_file("key", path),
        lambda: store.exists("key"),
        lambda: store.delete("key"),
        lambda: list(store.keys()),
    ]
    for ask in asks:
        with pytest.raises(Transient, match=r"objects_down: .* at 127\.0\.0\.1:1: Connection ref"):
            ask()


def test_https_to_a_store_that_speaks_none_names_the_setting() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as plain:
        thread = Thread(target=plain.serve_forever)
        thread.start()
        store = S3Objects(f"127.0.0.1:{plain.server_address[1]}", "calls", attempts=1)
        with pytest.raises(Transient, match=r"SSL.*CALLSTREAM_OBJECTS__SECURE=true"):
            store.check()
        plain.shutdown()
        thread.join()


@pytest.mark.s3
def test_refused_credentials_name_the_setting(versitygw: str) -> None:
    s3_objects(versitygw).check(create=True)
    with pytest.raises(ValueError, match=r"^objects\.access_key"):
        s3_objects(versitygw, access_key="nobody").check()
    with pytest.raises(ValueError, match=r"^objects\.secret_key"):
        s3_objects(versitygw, secret_key="wrong").check()
    # While running the same is waited for: the settings may be mended, the call is not to blame.
    with pytest.raises(Transient, match="objects_refused"):
        s3_objects(versitygw, secret_key="wrong").get("key")


@pytest.mark.s3
def test_a_missing_bucket_names_the_setting(moto: str) -> None:
    with pytest.raises(ValueError, match=r"^objects\.bucket"):
        s3_objects(moto, "none").check()
    with pytest.raises(Transient, match=r"objects\.bucket"):
        s3_objects(moto, "none").get("key")
