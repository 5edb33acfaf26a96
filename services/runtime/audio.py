"""Audio of unknown origin: measured in a child process, then decoded. The only importer of `av`.

`probe` is for files nobody has vouched for: FFmpeg runs in a process of its own, which gets the
file as its standard input, can open nothing else and no socket, and is bounded in memory and
processor time. `Prober` does the same for many files, without starting a program for each.
`decode` and `blocks` are for files that were accepted so; they run in the caller's process.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import av
import av.logging

from services.runtime.errors import Invalid, NotYet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]

MIN_SAMPLE_RATE_HZ = 4_000

# What FFmpeg may take a file for. Formats that name other files or hosts (hls, concat, sdp, ...)
# are not among them.
_CONTAINERS = (
    "3gp,aac,ac3,aiff,amr,amrnb,amrwb,asf,au,caf,flac,matroska,mov,mp3,mp4,ogg,tta,voc,w64,wav,"
    "webm,wsd,wv"
)

# Telephony formats without a header: FFmpeg is told, by file suffix or by what the platform says.
# suffix or name -> (FFmpeg format, its options)
_HEADERLESS: dict[str, tuple[str, dict[str, str]]] = {
    **dict.fromkeys(("mulaw", "ul", "ulaw", "pcmu", "mu"), ("mulaw", {"sample_rate": "8000"})),
    **dict.fromkeys(("alaw", "al", "pcma"), ("alaw", {"sample_rate": "8000"})),
    "gsm": ("gsm", {"sample_rate": "8000"}),
    "g722": ("g722", {}),
    "g729": ("g729", {}),
    **dict.fromkeys(("sln", "slin", "s16le"), ("s16le", {"sample_rate": "8000"})),
    **dict.fromkeys(("sln16", "slin16"), ("s16le", {"sample_rate": "16000"})),
}

# Packets that were lost, or left out because nobody spoke, are gaps in a file's timestamps: silence
# keeps the time there. What is shorter than a packet of telephony may be inexact timestamps; what
# is longer, or goes back by more than a second, is the clock of another recording.
_SHORTEST_GAP_S, _LONGEST_GAP_S, _BACK_S = 0.015, 3600.0, 1.0

# With what a probing child ended, as `subprocess` tells it.
_STATUS = struct.Struct("=i")

# How files with a header begin, whatever their suffix says.
_MAGICS = (b"RIFF", b"RF64", b"FORM", b"OggS", b"fLaC", b".snd", b"ID3", b"#!AMR", b"caff",
           b"\x1aE\xdf\xa3", b"0&\xb2u")  # fmt: skip


@dataclass(frozen=True, slots=True)
class AudioLimits:
    """What a file may ask for before it is refused."""

    max_bytes: int = 2 << 30
    max_duration_s: float = 8 * 3600.0
    max_sample_rate_hz: int = 192_000
    max_channels: int = 16
    cpu_s: int = 300
    """Processor seconds of the child."""
    memory_bytes: int = 1 << 30
    """Address space of the child."""
    wall_s: float = 900.0
    """Longest wait for the child; a guard against a stuck machine, not against the file."""


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a file holds, as measured by decoding all of it."""

    container: str
    """FFmpeg's name of the format, or ours for a headerless one; `decode` takes it."""
    codec: str
    sample_rate_hz: int
    channels: int
    duration_ms: int
    """Of what could be decoded, with the silence that its timestamps leave out: a file cut short
    has the duration of what is left."""
    samples: int
    """Per channel, with that silence."""


def probe(path: Path, limits: AudioLimits, container: str | None = None) -> AudioInfo:
    """Measure the file at `path` by decoding it in a child process. Blocks; thread-safe.

    `container` names a headerless telephony format (`mulaw`, `alaw`, `gsm`, `g722`, `g729`,
    `sln` ...) and is ignored where the file has a header; without it the suffix of `path` is
    asked. A file cut short is accepted with what it holds.

    Raises Invalid with reason `empty_file`, `too_many_bytes`, `not_audio`, `several_streams`,
    `sample_rate`, `too_many_channels`, `too_long`, `decodes_to_nothing`, `decoder_memory`,
    `decoder_crashed` or `probe_timeout` (processor time); NotYet where the child was stopped by
    something other than the file.
    """
    request = _request(path, limits, container)
    with path.open("rb") as file:
        child = _program(request, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with child:
        try:
            answer, complaint = child.communicate(timeout=limits.wall_s)
        except subprocess.TimeoutExpired:
            raise NotYet("probe_starved", f"no answer within {limits.wall_s:g} s") from None
        finally:
            child.kill()
    return _answered(child.returncode, answer, complaint, limits)


class Prober:
    """`probe` for many files: each in a child of its own with the same bounds, forked from a
    process that has its program loaded and has opened nothing.

    Called as `probe` is, and raises what it raises. Thread-safe. That process is started at the
    first call, again where it has died, and ends with this one or by `close`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def __call__(self, path: Path, limits: AudioLimits, container: str | None = None) -> AudioInfo:
        request = _request(path, limits, container)
        line, theirs = socket.socketpair()
        # On leaving, the line is cut: a child that still runs is killed then.
        with line:
            with theirs, path.open("rb") as file:
                self._hand_over(request.encode(), [file.fileno(), theirs.fileno()])
            deadline = time.monotonic() + limits.wall_s
            told = b""
            while True:
                line.settimeout(max(0.001, deadline - time.monotonic()))
                try:
                    block = line.recv(1 << 16)
                except TimeoutError:
                    raise NotYet("probe_starved", f"no answer within {limits.wall_s:g} s") from None
                except ConnectionError:
                    block = b""
                if not block:
                    break
                told += block
        if len(told) < _STATUS.size:
            raise NotYet("probe_killed", "the process that decoders are forked from was stopped")
        (code,) = _STATUS.unpack_from(told, len(told) - _STATUS.size)
        said = told[: -_STATUS.size]
        return _answered(code, said.rstrip().rpartition(b"\n")[2], said, limits)

    def _hand_over(self, request: bytes, handles: list[int]) -> None:
        with self._lock:
            # A process that was killed may leave its end of the line open for a moment longer.
            if self._process is not None and self._process.poll() is not None:
                self._end()
            if self._control is not None:
                try:
                    socket.send_fds(self._control, [request], handles)
                    return
                except ConnectionError:
                    self._end()
            self._control, theirs = socket.socketpair()
            with theirs:
                nobody = subprocess.DEVNULL
                self._process = _program(stdin=theirs, stdout=nobody, stderr=nobody)
            socket.send_fds(self._control, [request], handles)

    def close(self) -> None:
        """End the process; what is being probed is told that it was stopped."""
        with self._lock:
            self._end()

    def __del__(self) -> None:
        self._end()

    def _end(self) -> None:
        if self._control is not None and self._process is not None:
            self._control.close()
            self._process.kill()
            self._process.wait()
        self._control = self._process = None


def _request(path: Path, limits: AudioLimits, container: str | None) -> str:
    size = path.stat().st_size
    if size == 0:
        raise Invalid("empty_file", "the file has no bytes")
    if size > limits.max_bytes:
        raise Invalid("too_many_bytes", f"{size} bytes, allowed are {limits.max_bytes}")
    hint = (container or path.suffix.lstrip(".")).lower()
    return json.dumps({"limits": asdict(limits), "hint": hint})


def _program(*arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
    """This file as a program, which sees no setting and no credential of this process."""
    environ = {k: os.environ[k] for k in ("LD_LIBRARY_PATH", "PYTHONPATH") if k in os.environ}
    return subprocess.Popen(
        [sys.executable, "-m", "services.runtime.audio", *arguments],
        cwd=Path(__file__).parents[2],
        env=environ,
        start_new_session=True,
        **streams,
    )


def _answered(code: int, answer: bytes, complaint: bytes, limits: AudioLimits) -> AudioInfo:
    if code == 0:
        told: dict[str, Any] = json.loads(answer)
        if "refused" in told:
            raise Invalid(told["refused"], told["detail"])
        return AudioInfo(**told)
    if code == -signal.SIGXCPU:
        raise Invalid("probe_timeout", f"decoding took more than {limits.cpu_s} s of processor")
    if code in (-signal.SIGKILL, -signal.SIGTERM):
        raise NotYet("probe_killed", f"the decoder was stopped by signal {-code}")
    if code < 0:
        raise Invalid("decoder_crashed", f"the decoder died of signal {-code}")
    raise RuntimeError(f"the probing process failed: {complaint[-2000:].decode(errors='replace')}")


def decode(path: Path, rate: int = 16_000, container: str | None = None) -> Samples:
    """All samples of a file that `probe` accepted: float32, full scale 1.0, (channels,
    samples).

    Each channel is resampled to `rate` Hz by itself, nothing is mixed. Gaps in the timestamps, of
    up to an hour, are silence. `container` is
    `AudioInfo.container`; it is needed where the file has no header and `path` no suffix.
    Raises Invalid where the file cannot be decoded at all.
    """
    import numpy as np

    return np.concatenate(list(_resampled(path, rate, container)), axis=1)


def blocks(
    path: Path, rate: int = 16_000, seconds: float = 30.0, container: str | None = None
) -> Iterator[Samples]:
    """As `decode`, in blocks of `seconds`; the last is shorter. Memory is bounded by a block."""
    import numpy as np

    length = round(rate * seconds)
    if length < 1:
        raise ValueError(f"seconds={seconds!r}: a block must hold at least one sample")
    held: list[Samples] = []
    count = 0
    for piece in _resampled(path, rate, container):
        held.append(piece)
        count += piece.shape[1]
        if count >= length:
            whole = np.concatenate(held, axis=1)
            while count >= length:
                yield whole[:, :length]
                whole = whole[:, length:]
                count -= length
            held = [whole] if count else []
    if count:
        yield np.concatenate(held, axis=1)


def _resampled(path: Path, rate: int, container: str | None) -> Iterator[Samples]:
    """Pieces (channels, samples) at `rate`, the last empty; as many channels as at the start."""
    import numpy as np

    hint = (container or path.suffix.lstrip(".")).lower()
    channels = given = 0
    seconds = 0.0
    resampler: av.AudioResampler | None = None
    setting: tuple[object, ...] = ()

    def planar(frames: list[av.AudioFrame]) -> Iterator[Samples]:
        nonlocal given
        for frame in frames:
            if frame.samples:
                samples = frame.to_ndarray().astype(np.float32, copy=False)
                packed = samples.reshape(-1, frame.layout.nb_channels)
                piece = np.ascontiguousarray(packed.T)
                if len(piece) < channels:
                    piece = np.concatenate([piece, np.repeat(piece[-1:], channels - len(piece), 0)])
                given += frame.samples
                yield piece[:channels]

    def silence() -> Iterator[Samples]:
        """All that is missing by now. Counted from the start: what is rounded does not add up."""
        nonlocal given
        while (count := min(rate, round(seconds * rate) - given)) > 0:
            given += count
            yield np.zeros((channels, count), np.float32)

    with path.open("rb") as file:
        with _opened(file, hint) as source:
            for frame, gap in _timed(_frames(source)):
                now = (frame.format.name, frame.layout.name, frame.sample_rate)
                if resampler is None or now != setting or gap:
                    if resampler is not None:
                        yield from planar(resampler.resample(None))
                    channels = channels or frame.layout.nb_channels
                    # Packed: of planes PyAV reads eight pointers only, beyond them it crashes.
                    resampler = av.AudioResampler("flt", frame.layout, rate)
                    setting = now
                if gap:
                    seconds += gap / frame.sample_rate
                    yield from silence()
                seconds += frame.samples / frame.sample_rate
                frame.pts = None
                yield from planar(resampler.resample(frame))
        if resampler is None:
            raise Invalid("decodes_to_nothing", "no audio could be decoded")
        yield from planar(resampler.resample(None))
        yield np.zeros((channels, 0), np.float32)


def _opened(file: BinaryIO, hint: str) -> av.container.InputContainer:
    """The file as a container with exactly one audio stream that can be decoded."""
    name, options = _HEADERLESS.get(hint, (None, {}))
    if name is not None and _has_header(file):
        name, options = None, {}
    options = {"protocol_whitelist": "", **options}
    if name is None:
        options["format_whitelist"] = _CONTAINERS
    try:
        container = av.open(file, "r", format=name, options=options, metadata_errors="replace")
    except MemoryError:
        raise
    except av.FFmpegError as error:
        raise Invalid("not_audio", f"no audio format is recognised ({error.strerror})") from error
    streams = container.streams.audio
    if len(streams) != 1 or streams[0].codec_context is None:
        container.close()
        if len(streams) > 1:
            raise Invalid(
                "several_streams", f"{len(streams)} audio streams; deliver each as a recording"
            )
        raise Invalid("not_audio", "the file holds no audio that can be decoded")
    return container


def _has_header(file: BinaryIO) -> bool:
    start = file.read(12)
    file.seek(0)
    return start[4:8] == b"ftyp" or any(start.startswith(magic) for magic in _MAGICS)


def _frames(container: av.container.InputContainer) -> Iterator[av.AudioFrame]:
    """Decoded frames; what is damaged is passed over, and what is cut off ends the file."""
    stream = container.streams.audio[0]
    decoder = stream.codec_context
    if decoder.name in ("amrnb", "amr_nb"):
        # FFmpeg's own decoder loses speech.
        decoder = av.CodecContext.create("libopencore_amrnb", "r")
        decoder.sample_rate = 8000
        decoder.layout = "mono"
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except MemoryError:
            raise
        except (StopIteration, av.FFmpegError):
            break
        try:
            frames = decoder.decode(packet)
        except MemoryError:
            raise
        except av.FFmpegError:
            continue
        yield from frames


def _timed(frames: Iterator[av.AudioFrame]) -> Iterator[tuple[av.AudioFrame, int]]:
    """Each frame, with how many samples of silence are missing before it by the timestamps."""
    begun_s = decoded_s = expected_s = 0.0
    first = True
    for frame in frames:
        gap = 0
        at_s = expected_s
        if frame.pts is not None and frame.time_base:
            at_s = float(frame.pts * frame.time_base)
            missing_s = at_s - begun_s - decoded_s
            if first or missing_s > _LONGEST_GAP_S or missing_s < -_BACK_S:
                begun_s = at_s - decoded_s
            # Of the whole time, so that timestamps that are off now and then do not add up.
            elif min(missing_s, at_s - expected_s) > _SHORTEST_GAP_S:
                gap = round(missing_s * frame.sample_rate)
        first = False
        expected_s = at_s + frame.samples / frame.sample_rate
        decoded_s += (gap + frame.samples) / frame.sample_rate
        yield frame, gap


def _measure(file: BinaryIO, hint: str, limits: AudioLimits) -> AudioInfo:
    """Decode `file` to its end, counting; refuses as soon as a limit is passed."""
    with _opened(file, hint) as container:
        context = container.streams.audio[0].codec_context
        codec, rate, channels = context.name, context.sample_rate, context.channels
        _within(rate, channels, limits)
        samples = 0
        seconds = 0.0
        for frame, gap in _timed(_frames(container)):
            if not samples:
                rate, channels = frame.sample_rate, frame.layout.nb_channels
            _within(frame.sample_rate, frame.layout.nb_channels, limits)
            samples += gap + frame.samples
            seconds += (gap + frame.samples) / frame.sample_rate
            if seconds > limits.max_duration_s:
                raise Invalid(
                    "too_long", f"decodes to more than the {limits.max_duration_s:g} s allowed"
                )
        if not samples:
            raise Invalid("decodes_to_nothing", f"{codec}: no sample could be decoded")
        known = container.format.name.split(",")[0]
        name = hint if known in ("s16le",) else known
    return AudioInfo(name, codec, rate, channels, round(seconds * 1000), samples)


def _within(rate: int, channels: int, limits: AudioLimits) -> None:
    if not MIN_SAMPLE_RATE_HZ <= rate <= limits.max_sample_rate_hz:
        raise Invalid(
            "sample_rate",
            f"{rate} Hz, allowed are {MIN_SAMPLE_RATE_HZ} to {limits.max_sample_rate_hz}",
        )
    if not 1 <= channels <= limits.max_channels:
        raise Invalid("too_many_channels", f"{channels}, allowed are 1 to {limits.max_channels}")


def _child(request: str) -> None:
    """The probing process: the file on standard input, the answer as JSON on standard output."""
    asked = json.loads(request)
    limits = AudioLimits(**asked["limits"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 5))
    # Descriptors 0 to 2 are in use: no file and no socket can be opened from here on.
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    told: dict[str, object]
    try:
        with os.fdopen(0, "rb", closefd=False) as file:
            told = asdict(_measure(file, asked["hint"], limits))
    except Invalid as refusal:
        told = {"refused": refusal.reason, "detail": refusal.detail}
    except MemoryError:
        told = {"refused": "decoder_memory", "detail": f"more than {limits.memory_bytes} bytes"}
    except Exception as error:
        told = {"refused": "decoder_crashed", "detail": f"{type(error).__name__}: {error}"}
    print(json.dumps(told), flush=True)


def _fork_on_demand() -> None:
    """Fork a child for each request on standard input, a socket; end when that is closed.

    With a request come the file and the line: the child's output, and after it the status with
    which it ended. No thread is ever started here, so that a fork is safe.
    """
    control = socket.socket(fileno=0)
    ended, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    lines: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as ready:
        ready.register(control, selectors.EVENT_READ)
        ready.register(ended, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is control:
                    request, handles, _, _ = socket.recv_fds(control, 1 << 16, 2)
                    if not request:
                        for pid in lines:
                            os.kill(pid, signal.SIGKILL)
                        return
                    pid = os.fork()
                    if pid == 0:
                        _become_child(request.decode(), *handles)
                    os.close(handles[0])
                    lines[pid] = socket.socket(fileno=handles[1])
                    ready.register(lines[pid], selectors.EVENT_READ, pid)
                elif key.fileobj is ended:
                    ended.recv(1 << 12)
                elif key.data in lines:  # nothing is ever said on a line but that it is cut
                    os.kill(key.data, signal.SIGKILL)
                    ready.unregister(key.fileobj)
            for pid in list(lines):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    with lines.pop(pid) as line, suppress(KeyError, OSError):
                        line.sendall(_STATUS.pack(os.waitstatus_to_exitcode(status)))
                        ready.unregister(line)


def _become_child(request: str, file: int, line: int) -> NoReturn:
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for to, handle in enumerate((file, line, line)):
            os.dup2(handle, to)
        os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        _child(request)
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _main(arguments: Sequence[str]) -> None:
    av.logging.set_level(av.logging.PANIC)
    # PyAV imports parts of itself at first use, which must be before files are closed off.
    with suppress(Invalid):
        _measure(BytesIO(), "mulaw", AudioLimits())
    if arguments:
        _child(arguments[0])
    else:
        _fork_on_demand()


if __name__ == "__main__":
    _main(sys.argv[1:])
