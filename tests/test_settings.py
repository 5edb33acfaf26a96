"""What a wrong setting is told as."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.settings import WrongSetting, load


@pytest.fixture(autouse=True)
def _no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("STATUS__URLS", "http://x", "CALLSTREAM_STATUS__URLS or CALLSTREAM_TENANT: not JSON; "
         "lists and mappings are written as JSON, such as "),
        ("LOOP__TIER_DELAYS_S", "1,2", "CALLSTREAM_LOOP__TIER_DELAYS_S or CALLSTREAM_TENANT: not"),
        ("STATUS__URLS", '{"ingst": "http://x"}', "STATUS__URLS: 'ingst': Input should be"),
        ("STATUS__URLS__INGEST", "x", "STATUS__URLS__INGEST='x': "),
        ("LOOP__TIER_DELAYS_S", '[1, "x"]', "LOOP__TIER_DELAYS_S: 'x': "),
        ("OBJECTS__ENDPOINT", "http://store:9000", "OBJECTS__ENDPOINT='http://store:9000': "),
        ("OBJECTS__ENDPOINT", "store:9000/calls", "CALLSTREAM_OBJECTS__SECURE"),
        ("OBJECTS__KIND", "s3", "OBJECTS__ENDPOINT='': "),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_its_key(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv("CALLSTREAM_TENANT", value)  # the same, where it may be
    monkeypatch.setenv(f"CALLSTREAM_{name}", value)
    with pytest.raises(WrongSetting) as refused:
        load()
    assert told in str(refused.value)
    assert str(refused.value).startswith("CALLSTREAM_")
    assert len(str(refused.value).splitlines()) == 1


def test_a_variable_of_the_file_is_told_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CALLSTREAM_INGEST__ALLOWED_ROOTS=/calls\n")
    with pytest.raises(WrongSetting, match=r"^CALLSTREAM_INGEST__ALLOWED_ROOTS: not JSON"):
        load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("INGEST__CREDENTIALS", '{"x": {"secret": "hunter2}}'),
        ("INGEST__CREDENTIALS", '{"x": {"kind": "bearer", "secrt": "hunter2"}}'),
        ("INGEST__CREDENTIALS__X", '{"secret": "hunter2}}'),
        ("INGEST__S3", '"hunter2"'),
        ("SINK", '{"password": "hunter2'),
        ("SINK", '{"pasword": "hunter2"}'),
        ("SINK", '{"password": ["hunter2"]}'),
        ("TRANSCRIBE__ENDPOINT", '"hunter2"'),
        ("TRANSCRIBE__ENDPOINT", '{"api_key": ["hunter2"]}'),
        ("TRANSCRIBE__ENDPOINT", '{"apikey": "hunter2"}'),
        ("TRANSCRIBE__ENDPOINT__URL", "https://me:hunter2@speech.example/v1"),
        ("LOG__KAFKA__EXTRA", "sasl.oauthbearer.client.secret=hunter2"),
    ],
)
def test_a_secret_is_told_by_its_key_alone(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"CALLSTREAM_{name}", value)
    with pytest.raises(WrongSetting, match=r"^CALLSTREAM_") as refused:
        load()
    assert f"CALLSTREAM_{name}" in str(refused.value)
    assert "hunter2" not in str(refused.value)
