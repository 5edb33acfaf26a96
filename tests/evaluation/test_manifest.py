"""Manifests as people write them, and as they should not."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.events import Role
from services.evaluation.manifest import WrongManifest, read_manifest
from services.evaluation.measures import Turn
from tests.evaluation.clips import write_manifest


def test_everything_that_is_known_of_a_clip_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.rttm").write_text(
        ";; who speaks\n"
        "SPKR-INFO a 1 <NA> <NA> <NA> unknown x <NA> <NA>\n"
        "SPEAKER a 1 0.5 1.25 <NA> <NA> x <NA> <NA>\n"
        "SPEAKER a 1 2 0.001 <NA> <NA> y <NA> <NA>\n"
    )
    (clip,) = read_manifest(
        write_manifest(
            tmp_path,
            "",
            {
                "file": "sub/a.wav", "lang": "en-GB+cmn", "kind": "call",
                "transcript": "Hello 你好",
                "ref_quality": " human ", "rttm": "a.rttm", "channel_roles": ["agent", "Customer"],
                "channel_transcripts": {"customer": "你好", "agent": "Hello"},
                "speakers": [{"speaker": "x", "text": "Hello"}, {"speaker": "y", "text": "你"},
                             {"speaker": "y", "text": "好"}],
                "licence": "nobody asks", "duration_s": 3,
            },
        )
    )  # fmt: skip
    assert (clip.line, clip.name, clip.path) == (2, "sub/a.wav", tmp_path / "sub" / "a.wav")
    assert (clip.languages, clip.quality, clip.text) == (("en", "zh"), "human", "Hello 你好")
    assert clip.turns == (Turn("x", 500, 1750), Turn("y", 2000, 2001))
    assert clip.roles == (Role.AGENT, Role.CUSTOMER)
    assert clip.channels == ("Hello", "你好")
    assert clip.speakers == {"x": "Hello", "y": "你 好"}


@pytest.mark.parametrize(
    ("line", "languages", "text"),
    [
        ({"transcript": ""}, (), ""),
        ({"kind": "noise"}, (), ""),
        ({"lang": "none", "transcript": None}, (), ""),
        ({"lang": "und"}, (), None),
        ({"lang": "en"}, ("en",), None),
        ({"lang": "en", "kind": "noise", "transcript": "hello"}, ("en",), "hello"),
        ({"lang": None}, (), None),
    ],
)
def test_where_nobody_speaks_the_reference_is_empty(
    tmp_path: Path, line: dict[str, Any], languages: tuple[str, ...], text: str | None
) -> None:
    (clip,) = read_manifest(write_manifest(tmp_path, {"file": "a.wav", **line}))
    assert (clip.languages, clip.text, clip.quality) == (languages, text, "unstated")


def test_names_may_be_of_any_script_and_lines_end_where_they_end(tmp_path: Path) -> None:
    path = tmp_path / "清单.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf"
        + '{"file": "电话 \U0001f4de.wav", "transcript": "a\u2028b"}\r\n{"file": "/b.wav"}'.encode()
    )
    first, second = read_manifest(path)
    assert (first.name, first.text) == ("电话 \U0001f4de.wav", "a\u2028b")
    # A manifest is one's own: it may name recordings anywhere.
    assert (second.path, second.line) == (Path("/b.wav"), 2)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"file": "a.wav"', "not JSON (Input data was truncated); write one object a line"),
        ('{"file": "a.wav", "x": NaN}', "not JSON"),
        ('{"file": "a.wav", "x": "\\ud800"}', "not JSON"),
        ('{"file": "a.wav", "x": ' + "[" * 100_000, "not JSON (maximum recursion depth"),
        ("[1]", "Expected `object`, got `array`; write an object"),
        ("null", "Expected `object`, got `null`"),
        ('{"lang": "en"}', "field file: Object missing required field `file`; name the recording"),
        ('{"file": 3}', "field file: Expected `str`, got `int`"),
        ('{"file": "a\\u0000"}', "field file: 'a\\x00' is no name"),
        ('{"file": " "}', "field file: ' ' is no name"),
        ('{"file": "a", "transcript": 5}', "field transcript: Expected `str | null`, got `int`"),
        ('{"file": "a", "lang": "very long language"}', "is no language tag; write a BCP 47 tag"),
        ('{"file": "a", "lang": "en+"}', "field lang: 'en+' is no language tag"),
        ('{"file": "a", "ref_quality": 0.9}', "field ref_quality: Expected"),
        ('{"file": "a", "channel_roles": ["boss"]}', "field channel_roles: 'boss' is no role ("),
        ('{"file": "a", "channel_transcripts": {"top": ""}}', "'top' are no channels; write"),
        ('{"file": "a", "channel_transcripts": {"0": "", "2": ""}}', "'0', '2' are no channels"),
        ('{"file": "a", "speakers": [{"speaker": "x"}]}', "field speakers: Object missing"),
        ('{"file": "a", "speakers": "no.stm"}', "no.stm: No such file or directory; write a list"),
        ('{"file": "a", "rttm": "no.rttm"}', "field rttm: no.rttm: No such file or directory"),
        ('{"file": "a", "rttm": "."}', "field rttm: .: Is a directory"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_told_with_field_and_mend(tmp_path: Path, line: str, told: str) -> None:
    path = write_manifest(tmp_path, {"file": "good.wav"}, line)
    with pytest.raises(WrongManifest) as caught:
        read_manifest(path)
    assert str(caught.value).startswith("manifest.jsonl line 2: ")
    assert told in str(caught.value)


def test_all_wrong_lines_are_told_at_once_up_to_a_number(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, *["{}"] * 30)
    with pytest.raises(WrongManifest) as caught:
        read_manifest(path)
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == [
        "manifest.jsonl line 1", "manifest.jsonl line 2"
    ]  # fmt: skip
    assert lines[20:] == ["and 10 more"]


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"\n \n", "names no clip"), (b"\xff\xfe", "not UTF-8")],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(content)
    with pytest.raises(WrongManifest, match=told):
        read_manifest(path)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.rttm", "SPEAKER a 1 nan 1 <NA> <NA> x\n", "line 1: 'nan' is no time in seconds"),
        ("a.rttm", "\nSPEAKER a 1 0 -1 <NA> <NA> x\n", "line 2: '-1' is no time in seconds"),
        ("a.rttm", "SPEAKER a 1 0 1e999 <NA> <NA> x\n", "'1e999' is no time in seconds"),
        ("a.rttm", "SPEAKER a 1 0\n", "line 1: 4 fields, an RTTM line has 8 or more"),
        ("a.rttm", ";; nothing\n", "holds no line SPEAKER"),
        (
            "a.rttm",
            "SPEAKER b 1 0 1 <NA> <NA> x\nSPEAKER c 1 0 1 <NA> <NA> x\n",
            "of 2 recordings none is 'a'",
        ),
        ("a.stm", "a 1 x 0\n", "line 1: 4 fields, an STM line has 5 and its words"),
        ("a.stm", "", "holds no segment"),
        ("a.json", "{}", "Expected `array`, got `object`"),
        ("a.json", "[]", "holds no segment"),
        ("a.json", '[{"speaker": "x", "words": "hi", "start_time": "soon"}]', "is no time"),
        ("a.json", '[{"speaker": "x", "y": ' + "[" * 100_000, "write a list of {speaker"),
    ],
)
def test_a_file_beside_it_is_told_with_its_line(
    tmp_path: Path, name: str, content: str, told: str
) -> None:
    (tmp_path / name).write_text(content)
    field = "rttm" if name.endswith("rttm") else "speakers"
    with pytest.raises(WrongManifest) as caught:
        read_manifest(write_manifest(tmp_path, {"file": "a.wav", field: name}))
    assert f"line 1: field {field}: {name}: " in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "all.stm",
            ";; a remark\n"
            "a 1 y 2.0 3.0 <o,f0> hello back\n"
            "a 1 x 3.5 4.0 bye\n"
            "b 1 x 0.0 1.0 not this recording\n"
            "a 1 x 0.0 1.0 <o> hello there\n"
            "a 1 x 1.0 2.0 ignore_time_segment_in_scoring\n",
        ),
        (
            "a.json",
            '[{"speaker": "y", "words": "hello back", "start_time": 2},'
            ' {"speaker": "x", "words": "bye", "start_time": "3.5"},'
            ' {"session_id": "a", "speaker": "x", "words": "hello there", "start_time": 0.0}]',
        ),
        (
            "a.seglst.json",
            '[{"speaker": "x", "text": "hello there"}, {"speaker": "y", "text": "hello back"},'
            ' {"speaker": "x", "text": "bye", "start": 0}]',
        ),
    ],
)
def test_what_speakers_say_may_lie_in_a_file(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    (clip,) = read_manifest(write_manifest(tmp_path, {"file": "a.wav", "speakers": name}))
    assert clip.speakers == {"x": "hello there bye", "y": "hello back"}


def test_of_an_rttm_of_many_recordings_the_clips_own_turns_are_taken(tmp_path: Path) -> None:
    (tmp_path / "all.rttm").write_text(
        "SPEAKER b 1 0 1 <NA> <NA> x <NA> <NA>\nSPEAKER a 1 3 1 <NA> <NA> y <NA> <NA>\n"
    )
    (clip,) = read_manifest(write_manifest(tmp_path, {"file": "deep/a.wav", "rttm": "all.rttm"}))
    assert clip.turns == (Turn("y", 3000, 4000),)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
FIELDS = ("file", "lang", "kind", "transcript", "ref_quality", "rttm", "channel_roles",
          "channel_transcripts", "speakers")  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(FIELDS), JSON | st.sampled_from(["a", "en", "agent"])))
def test_any_line_is_taken_or_told(tmp_path: Path, line: dict[str, Any]) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps(line), "utf-8", errors="surrogatepass")
    with suppress(WrongManifest):
        (clip,) = read_manifest(path)
        assert clip.name == line["file"]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.sampled_from(["a.rttm", "a.stm", "a.json"]))
def test_any_file_beside_it_is_taken_or_told(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    field = "rttm" if name == "a.rttm" else "speakers"
    with suppress(WrongManifest):
        read_manifest(write_manifest(tmp_path, {"file": "a.wav", field: name}))
