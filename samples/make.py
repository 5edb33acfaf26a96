"""Make the sample recordings in audio/ from the scripts in calls/.

    python samples/make.py                       make every call
    python samples/make.py --only praise         make one call (repeat --only for more)
    python samples/make.py --check               make nothing; compare with what is in audio/

English is spoken by flite, Mandarin by espeak-ng. The agent is on channel 0, the customer on
channel 1; a mono call is the sum of both. Samples stay integers from the synthesiser to the file,
and nothing is random: a second run gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import yaml

HERE = Path(__file__).resolve().parent
CALLS = HERE / "calls"
AUDIO = HERE / "audio"

ROLES = ("agent", "customer")
LANGUAGES = ("en", "zh")
PAUSE_MS = 350
TAIL_MS = 500
# Peak of every spoken turn: two turns at once still fit into 16 bits.
PEAK = 12_000
# What is quieter than PEAK / 100 at the ends of a turn is the synthesiser's silence, not speech.
EDGE_LEVEL = PEAK // 100
EDGE_MS = 20

Signal = npt.NDArray[np.int64]


class Failed(Exception):
    """A script or a tool is not as it should be; the message says what to do."""


@dataclass(frozen=True)
class Format:
    rate_hz: int
    channels: int
    container: str
    subtype: str


FORMATS = {
    "two-channel-16k": Format(16_000, 2, "flac", "PCM_16"),
    "two-channel-8k-mulaw": Format(8_000, 2, "wav", "ULAW"),
    "mono-16k": Format(16_000, 1, "flac", "PCM_16"),
}


@dataclass(frozen=True)
class Turn:
    role: str
    text: str
    pause_before_ms: int
    overlap_ms: int


@dataclass(frozen=True)
class Script:
    name: str
    call_id: str
    language: str
    format_name: str
    voices: dict[str, str]
    hold: list[list[int]]
    turns: list[Turn]

    @property
    def format(self) -> Format:
        return FORMATS[self.format_name]


@dataclass(frozen=True)
class Sample:
    """One finished call: the bytes of its audio file and what its JSON file says."""

    file: Path
    audio: bytes
    facts_file: Path
    facts: bytes


# --- scripts ------------------------------------------------------------------------------------

REQUIRED_KEYS = {
    *("call_id", "language", "title", "format", "queue", "agent_id", "agent_name"),
    *("direction", "started_at", "voices", "turns", "expected"),
}
OPTIONAL_KEYS = {"hold"}
TURN_KEYS = {"role", "text", "pause_before_ms", "overlap_ms"}
EXPECTED_KEYS = {"topics", "customer_sentiment", "alerts", "score"}


def read_script(path: Path) -> Script:
    """Raises Failed naming the file and the key that is wrong."""

    def need(true: bool, what: str) -> None:
        if not true:
            raise Failed(f"{path.name}: {what}")

    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise Failed(f"{path.name}: not YAML: {error}") from error
    need(isinstance(data, dict), "must be a mapping")
    unknown, missing = set(data) - REQUIRED_KEYS - OPTIONAL_KEYS, REQUIRED_KEYS - set(data)
    need(not unknown, f"unknown keys {sorted(unknown)}")
    need(not missing, f"missing keys {sorted(missing)}")
    need(data["language"] in LANGUAGES, f"language {data['language']!r} is not in {LANGUAGES}")
    need(data["format"] in FORMATS, f"format {data['format']!r} is not in {list(FORMATS)}")
    need(set(data["voices"]) == set(ROLES), f"voices must be given for {ROLES}")
    need(set(data["expected"]) == EXPECTED_KEYS, f"expected must have {sorted(EXPECTED_KEYS)}")
    hold = data.get("hold", [])
    need(all(len(span) == 2 for span in hold), "hold must be [start, end] pairs")
    turns = []
    for number, turn in enumerate(data["turns"]):
        where = f"turn {number}: "
        need(isinstance(turn, dict), where + "must be a mapping")
        need(set(turn) <= TURN_KEYS, where + f"unknown keys {sorted(set(turn) - TURN_KEYS)}")
        need(turn.get("role") in ROLES, where + f"role {turn.get('role')!r} is not in {ROLES}")
        need(bool(turn.get("text")), where + "has no text")
        both = "pause_before_ms" in turn and "overlap_ms" in turn
        need(not both, where + "pause_before_ms and overlap_ms exclude each other")
        overlap_ms = turn.get("overlap_ms", 0)
        need(overlap_ms == 0 or number > 0, where + "nothing before it to overlap")
        pause_ms = 0 if overlap_ms else turn.get("pause_before_ms", PAUSE_MS)
        need(overlap_ms >= 0 and pause_ms >= 0, where + "a pause or overlap is negative")
        turns.append(Turn(turn["role"], turn["text"], pause_ms, overlap_ms))
    need(bool(turns), "has no turns")
    return Script(
        name=path.stem,
        call_id=data["call_id"],
        language=data["language"],
        format_name=data["format"],
        voices=data["voices"],
        hold=hold,
        turns=turns,
    )


# --- voices -------------------------------------------------------------------------------------


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Failed(f"{name} is not installed (Debian: apt-get install flite espeak-ng)")
    return found


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(f"{command[0]} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout


def require_voices(script: Script) -> None:
    """Both synthesisers speak with another voice, without a word, where they lack the one named."""
    if script.language == "en":
        known = set(run([tool("flite"), "-lv"]).partition(":")[2].split())
        wanted = set(script.voices.values())
    else:
        known = set(run([tool("espeak-ng"), "--voices=cmn"]).split())
        wanted = {voice.partition("+")[0] for voice in script.voices.values()}
    if not wanted <= known:
        raise Failed(f"{script.name}: voices {sorted(wanted - known)} are not installed")


def speak(script: Script, turn: Turn) -> tuple[Signal, int]:
    """One turn as its synthesiser gives it, with its sample rate."""
    voice = script.voices[turn.role]
    with tempfile.TemporaryDirectory() as folder:
        wav = str(Path(folder) / "turn.wav")
        if script.language == "en":
            run([tool("flite"), "-voice", voice, "-t", turn.text, "-o", wav])
        else:
            run([tool("espeak-ng"), "-v", voice, "-s", "195", "-w", wav, turn.text])
        samples, rate_hz = soundfile.read(wav, dtype="int16")
    return np.asarray(samples, dtype=np.int64), int(rate_hz)


# --- signals ------------------------------------------------------------------------------------


def resample(signal: Signal, from_hz: int, to_hz: int) -> Signal:
    """Windowed-sinc resampling with a filter bank in 15-bit fixed point: exact integers."""
    if from_hz == to_hz:
        return signal
    common = int(np.gcd(from_hz, to_hz))
    up, down = to_hz // common, from_hz // common
    passband = 0.94 * min(1.0, up / down)
    half = int(np.ceil(24 / passband))
    offsets = np.arange(-half + 1, half + 1)[None, :] - np.arange(up)[:, None] / up
    window = np.cos(np.pi * offsets / (2 * half + 2)) ** 2
    bank = np.rint(passband * np.sinc(passband * offsets) * window * 2**15).astype(np.int64)
    padded = np.pad(signal, (half - 1, half))
    views = np.lib.stride_tricks.sliding_window_view(padded, 2 * half)
    positions = np.arange(len(signal) * up // down) * down
    out: Signal = (views[positions // up] * bank[positions % up]).sum(axis=1) >> 15
    return out


def shape(signal: Signal, rate_hz: int) -> Signal:
    """Brings a turn to PEAK, cuts the silence at its ends, pads it to whole milliseconds."""
    loudest = int(np.abs(signal).max(initial=0))
    if loudest == 0:
        raise Failed("the synthesiser gave silence")
    signal = signal * PEAK // loudest
    heard = np.flatnonzero(np.abs(signal) > EDGE_LEVEL)
    edge = EDGE_MS * rate_hz // 1000
    signal = signal[max(0, int(heard[0]) - edge) : int(heard[-1]) + 1 + edge]
    padded: Signal = np.pad(signal, (0, -len(signal) % (rate_hz // 1000)))
    return padded


def hold_tune(duration_ms: int, rate_hz: int) -> Signal:
    """Four notes of a quarter of a second each, over and over, quieter than speech."""
    time_s = np.arange(duration_ms * rate_hz // 1000) / rate_hz
    beat = (time_s * 4).astype(np.int64)
    pitch_hz = np.array([392.0, 493.88, 587.33, 493.88])[beat % 4]
    fade = np.clip(np.minimum(time_s * 4 - beat, beat + 1 - time_s * 4) * 8, 0, 1)
    tune: Signal = np.rint(2500 * fade * np.sin(2 * np.pi * pitch_hz * time_s)).astype(np.int64)
    return tune


# --- calls --------------------------------------------------------------------------------------


def make(script: Script) -> Sample:
    """The call as files in memory. Writes nothing."""
    require_voices(script)
    rate_hz = script.format.rate_hz
    per_ms = rate_hz // 1000
    spoken = [
        (turn, shape(resample(*speak(script, turn), rate_hz), rate_hz)) for turn in script.turns
    ]
    times: list[tuple[int, int]] = []
    for turn, signal in spoken:
        before_ms, after_ms = times[-1] if times else (0, 0)
        if turn.overlap_ms > after_ms - before_ms:
            raise Failed(f"{script.name}: {turn.text!r} would begin before the turn it overlaps")
        start_ms = after_ms + turn.pause_before_ms - turn.overlap_ms
        times.append((start_ms, start_ms + len(signal) // per_ms))
    duration_ms = max(end_ms for _, end_ms in times) + TAIL_MS
    channels = np.zeros((duration_ms * per_ms, len(ROLES)), dtype=np.int64)
    for (turn, signal), (start_ms, end_ms) in zip(spoken, times, strict=True):
        channels[start_ms * per_ms : end_ms * per_ms, ROLES.index(turn.role)] += signal
    for hold_start, hold_end in script.hold:
        talked = [
            number
            for number, (start, end) in enumerate(times)
            if start < hold_end and end > hold_start
        ]
        if talked or not 0 <= hold_start < hold_end <= duration_ms:
            raise Failed(
                f"{script.name}: hold {hold_start}-{hold_end} ms meets turns {talked} or leaves "
                f"the call; turns are at {times}"
            )
        # The agent's line is what the customer hears, so the music is there.
        channels[hold_start * per_ms : hold_end * per_ms, 0] += hold_tune(
            hold_end - hold_start, rate_hz
        )
    if script.format.channels == 1:
        channels = channels.sum(axis=1, keepdims=True)
    audio = encode(channels, script.format)
    file = AUDIO / f"{script.name}.{script.format.container}"
    facts = {
        "name": script.name,
        "call_id": script.call_id,
        "language": script.language,
        "file": file.name,
        "format": script.format_name,
        "codec": script.format.subtype,
        "sample_rate_hz": rate_hz,
        "channels": script.format.channels,
        "channel_roles": [] if script.format.channels == 1 else list(ROLES),
        "duration_ms": duration_ms,
        "size_bytes": len(audio),
        "sha256": hashlib.sha256(audio).hexdigest(),
        "hold": script.hold,
        "turns": [
            {"role": turn.role, "start_ms": start_ms, "end_ms": end_ms, "text": turn.text}
            for turn, (start_ms, end_ms) in zip(script.turns, times, strict=True)
        ],
    }
    text = json.dumps(facts, ensure_ascii=False, indent=1) + "\n"
    return Sample(file, audio, AUDIO / f"{script.name}.json", text.encode())


def encode(channels: Signal, format: Format) -> bytes:
    sink = io.BytesIO()
    soundfile.write(
        sink,
        channels.astype(np.int16),
        format.rate_hz,
        subtype=format.subtype,
        format=format.container.upper(),
    )
    return sink.getvalue()


def write(sample: Sample) -> None:
    AUDIO.mkdir(exist_ok=True)
    sample.file.write_bytes(sample.audio)
    sample.facts_file.write_bytes(sample.facts)
    print(f"made {sample.file.name}, {len(sample.audio) / 1000:.0f} kB")


def check(sample: Sample) -> None:
    """Raises Failed where audio/ does not hold what the script makes here."""
    for file, wanted in ((sample.file, sample.audio), (sample.facts_file, sample.facts)):
        if not file.exists():
            raise Failed(f"{file.name} is missing: run make.py --only {file.stem}")
        if file.read_bytes() == wanted:
            continue
        if file == sample.file and same_samples(file, wanted):
            raise Failed(f"{file.name}: same samples, but encoded by another libsndfile")
        raise Failed(f"{file.name} differs from what its script makes here")
    print(f"same {sample.file.name}")


def same_samples(file: Path, wanted: bytes) -> bool:
    here, _ = soundfile.read(file, dtype="int16")
    made, _ = soundfile.read(io.BytesIO(wanted), dtype="int16")
    return bool(np.array_equal(here, made))


def main(arguments: list[str]) -> int:
    """0: all made, or all the same; 1: some were not, each with a line on stderr."""
    parser = argparse.ArgumentParser(description="Make the sample recordings from their scripts.")
    parser.add_argument("--only", action="append", metavar="NAME", help="this call and no other")
    parser.add_argument("--check", action="store_true", help="compare with audio/, write nothing")
    options = parser.parse_args(arguments)
    paths = {path.stem: path for path in sorted(CALLS.glob("*.yaml"))}
    unknown = sorted(set(options.only or []) - set(paths))
    if unknown:
        parser.error(f"no such call: {', '.join(unknown)} (there are: {', '.join(paths)})")
    finish: Callable[[Sample], None] = check if options.check else write
    failed = 0
    for name in options.only or paths:
        try:
            finish(make(read_script(paths[name])))
        except Failed as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
