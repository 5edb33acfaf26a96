"""Turns from models that lie in packages: WhisperX's ear for turns, Resemblyzer's for voices.

Every second, five seconds are listened to by the segmentation model (pyannote's) that WhisperX's
package brings for its voice detection. It tells up to three voices there apart: when each speaks,
and when two do at once, but not who they are. Resemblyzer's encoder tells that: it gives a
direction to every 1.6 s of a voice that is heard alone. Directions that lie close are one
speaker's, and the speaker of a moment is told from all stretches around it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from itertools import combinations, islice, pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from services.runtime.libraries import first_line, library, torch_device
from services.transcribe.batches import Batches
from services.transcribe.diarizer import Turn, Turns, arranged
from services.transcribe.engine import RATE_HZ, Samples
from services.transcribe.spans import Span, joined
from services.transcribe.voices import Beside, Floats, Indices, centres

# The segmentation model hears 5 s at a time, as it was trained to, in frames of 270 samples that
# begin 360 samples into them. Windows begin every 60 frames: each moment is heard five times.
_FRAME, _OFFSET = 270, 360
_WINDOW, _FRAMES, _HOP = 5 * RATE_HZ, 293, 60
_LOCALS = 3
_WINDOWS_AT_ONCE = 32
# Two windows hear the same voice where they agree on it for so many frames.
_AGREED = 3
# Voices are beside each other in a window where each speaks for so long.
_BESIDE_S = 0.5
# How likely somebody else has to speak, where the ear counts two, to be one of them.
_SECOND = 0.3

# The encoder sees 40 mel bands of 25 ms every 10 ms, 160 of these at a time. It was trained on
# audio of one loudness, pauses and all -30 dBFS, and sees less in quieter audio: whatever it is
# shown has the energy, summed over the bands, of speech at -25 dBFS. Parties differ in loudness.
_MEL_STEP, _MEL_SIZE, _BANDS = 160, 400, 40
_SEEN, _SEEN_EVERY = 160, 20
_SEEN_AT_ONCE = 64
_STEPS_AT_ONCE = 4_096
_ENERGY = 1.25
# Speech of one voice with pauses of up to a second is one stretch; it is cut after a minute, which
# bounds memory. What is shorter than 100 ms tells nothing.
_PAUSE, _LONGEST, _SHORTEST = 60, 3_600, 6

# What speaks against a change of speaker, in differences of cosine times frames: 5 frames, a tenth
# of a second, of a voice that is nearer by 0.1; across a pause, where speakers rather change, less.
_CHANGE, _CHANGE_IN_PAUSE = 0.5, 0.25
# Shorter gaps belong to a turn: stops and breaths.
_GAP_MS = 200


class ResemblyzerDiarizer:
    """Parts voices with models that need no hub and no permission."""

    def __init__(self, weights: Path | None = None, device: str = "auto") -> None:
        """Loads both models; blocks for seconds. `weights`: Resemblyzer's `pretrained.pt`, if it is
        not to come from the package. `device`: auto, cpu or cuda. Raises ValueError where a model
        or the extra `transcribe` is not installed, or the file is none of the encoder's weights.
        """
        torch = library("torch", "transcribe.diarizer=resemblyzer")
        device = torch_device(torch, device)
        ear, voices = (
            _file("whisperx", "assets/pytorch_model.bin"),
            weights or _file("resemblyzer", "pretrained.pt"),
        )
        self._torch, self._device = torch, device
        self._ear = _ear(ear).to(device)
        self._encoder = _encoder(torch, voices).to(device)
        self._shares: Batches[tuple[Any, Floats], Floats] = Batches(self._run, 1)
        self.identity = (
            f"resemblyzer {_revision(voices)} with segmentation {_revision(ear)} "
            f"(pyannote.audio {version('pyannote.audio')}, torch {version('torch')})"
        )

    def diarize(
        self,
        audio: Samples,
        speech: Sequence[Span],
        parties: int | None = None,
        *,
        replay: bool = False,
    ) -> Turns:
        """As `Diarizer.diarize`. Where most of what the ear takes for a voice lies in `speech`, all
        of it does: its beginnings and ends are heard more finely than those of `speech`."""
        if not speech:
            return Turns()
        heard = self._heard(audio, speech, replay)
        voiced = _voiced(heard, speech)
        tracks = _tracks(heard)
        track = _alone(heard, tracks, voiced)
        stretches, directions = self._looked_at(audio, track, replay)
        if len(stretches):
            centre = _centres(heard, tracks, voiced, stretches, directions, parties)
        else:
            centre = directions  # nobody is heard long enough to be told from another
        path = _path(_likeness(heard.count, stretches, directions, centre), voiced)
        return _turns(heard, path, max(1, len(centre)), audio.size * 1000 // RATE_HZ)

    def _heard(self, audio: Samples, speech: Sequence[Span], replay: bool) -> _Heard:
        """What the segmentation model makes of every window that holds speech."""
        count = -(-audio.size // _FRAME)
        # The last one reaches the end: what is mostly silence that was added is heard badly.
        wanted = np.zeros(max(0, -(-(count - _FRAMES) // _HOP)) + 1, np.bool_)
        for span in speech:
            first = span.start_ms * RATE_HZ // 1000 // _FRAME
            last = -(-span.end_ms * RATE_HZ // 1000) // _FRAME
            earliest = min(max(0, (first - _FRAMES) // _HOP + 1), len(wanted) - 1)
            wanted[earliest : last // _HOP + 1] = True
        windows = np.flatnonzero(wanted) * _HOP
        active = np.zeros((len(windows), _FRAMES, _LOCALS), np.float16)
        every = range(0, len(windows), _WINDOWS_AT_ONCE)

        def pieces() -> Iterator[Floats]:
            for at in every:
                part = windows[at : at + _WINDOWS_AT_ONCE]
                batch = np.zeros((len(part), 1, _WINDOW), np.float32)
                for row, first in zip(batch, part.tolist(), strict=True):
                    piece = audio[first * _FRAME : first * _FRAME + _WINDOW]
                    row[0, : piece.size] = piece
                yield batch

        for at, answer in zip(every, self._each(self._ear, pieces(), replay), strict=True):
            active[at : at + len(answer)] = answer
        return _Heard(count, windows, active)

    def _looked_at(self, audio: Samples, track: Indices, replay: bool) -> tuple[_Stretches, Floats]:
        """Stretches in which a voice is heard alone, and the direction of each."""
        made: list[tuple[int, int, int]] = []

        def shown() -> Iterator[Floats]:
            for frames in _runs(track):
                mel, frame_of = _mel(audio, frames)
                for start in _starts(len(mel)):
                    end = min(start + _SEEN, len(mel)) - 1
                    made.append((frame_of[start], frame_of[end], track[frames[0]]))
                    yield _shown(mel[start : end + 1])

        def pieces() -> Iterator[Floats]:
            every = shown()
            while batch := list(islice(every, _SEEN_AT_ONCE)):
                yield np.stack(batch)

        directions = list(self._each(self._encoder, pieces(), replay))
        first, last, own = np.array(made, np.intp).reshape(-1, 3).T
        stretches = _Stretches(first, last, own, track)
        return stretches, np.concatenate([np.zeros((0, 256), np.float32), *directions])

    def _each(self, model: Any, pieces: Iterator[Floats], replay: bool) -> Iterator[Floats]:
        """What `model` makes of each piece; those of calls at hand take turns, live calls first."""
        given = ((model, piece) for piece in pieces)
        with closing(self._shares.each(given, replay=replay)) as answers:
            yield from answers

    def _run(self, given: Sequence[tuple[Any, Floats]]) -> list[Floats]:
        ((model, piece),) = given
        with self._torch.inference_mode():
            answer = model(self._torch.from_numpy(piece).to(self._device))
            return [np.asarray(answer.float().cpu().numpy(), np.float32)]


@dataclass(frozen=True, slots=True, eq=False)
class _Heard:
    """What the segmentation model hears of a recording of `count` frames."""

    count: int
    windows: Indices
    """First frame of each window that was listened to."""
    active: npt.NDArray[np.float16]
    """(windows, 293, 3): how likely each of its voices speaks, 0.0 to 1.0."""

    def each(self) -> Iterator[tuple[int, slice, npt.NDArray[np.float16]]]:
        """Of each window its number, its frames, and what was heard in them."""
        for number, first in enumerate(self.windows.tolist()):
            last = min(first + _FRAMES, self.count)
            yield number, slice(first, last), self.active[number, : last - first]

    def times(self) -> npt.NDArray[np.float32]:
        """How often each frame was listened to; at least 1."""
        times = np.zeros(self.count, np.float32)
        for _, frames, _ in self.each():
            times[frames] += 1
        return np.maximum(times, 1)

    def voices(self) -> npt.NDArray[np.float32]:
        """How many voices are heard in each frame, by the mean of its windows."""
        total = np.zeros(self.count, np.float32)
        for _, frames, active in self.each():
            total[frames] += np.count_nonzero(active > 0.5, axis=1)
        return total / self.times()


@dataclass(frozen=True, slots=True, eq=False)
class _Stretches:
    """Stretches of a voice heard alone: first and last frame, and track, of each; in order."""

    first: Indices
    last: Indices
    track: Indices
    track_of_frame: Indices

    def __len__(self) -> int:
        return len(self.first)

    def covered(self, values: Floats) -> Floats:
        """(frames, n): the sum of (stretches, n) `values` of the stretches that each frame is
        in."""
        changes = np.zeros((len(self.track_of_frame) + 1, values.shape[1]), np.float64)
        np.add.at(changes, self.first, values)
        np.add.at(changes, self.last + 1, -values)
        total = np.cumsum(changes[:-1], axis=0)
        # Frames between that are silent, or another's, are not theirs.
        total[self.track_of_frame < 0] = 0.0
        return np.asarray(total, np.float32)

    def seconds(self) -> Floats:
        """How much speech each stands for: what several share is divided among them."""
        times = self.covered(np.ones((len(self), 1), np.float32))[:, 0]
        share = np.where(times > 0.5, _FRAME / RATE_HZ / np.maximum(times, 0.5), 0.0)
        total = np.concatenate([[0.0], np.cumsum(share)])
        return np.asarray(total[self.last + 1] - total[self.first], np.float32)


# What is heard, frame by frame


def _voiced(heard: _Heard, speech: Sequence[Span]) -> npt.NDArray[np.bool_]:
    """Frames in which somebody speaks: heard by the ear, and within `speech` or part of a run that
    mostly is."""
    inside = np.zeros(heard.count, np.bool_)
    for span in speech:
        first, last = (-(-(ms * RATE_HZ // 1000 - _OFFSET - _FRAME // 2) // _FRAME) for ms in span)
        inside[max(0, first) : max(0, last)] = True
    voice = heard.voices() > 0.5
    kept = voice & inside
    for first, last in _stretches(voice):
        if 2 * np.count_nonzero(inside[first:last]) >= last - first:
            kept[first:last] = True
    return kept


def _stretches(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First frame, and the one after the last, of each run of true ones."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _tracks(heard: _Heard) -> Indices:
    """(windows, 3): numbers of voices that windows which overlap hear as one; -1 for silent ones.

    A voice that pauses for longer than a window gets another number.
    """
    tracks = np.full((len(heard.windows), _LOCALS), -1, np.intp)
    following = 0
    for number, first in enumerate(heard.windows.tolist()):
        shift = first - int(heard.windows[number - 1]) if number else _FRAMES
        if shift < _FRAMES:
            before = heard.active[number - 1, shift:].astype(np.float32)
            now = heard.active[number, : _FRAMES - shift].astype(np.float32)
            agreed = before.T @ now
            order = max(
                permutations(range(_LOCALS)),
                key=lambda order: sum(agreed[old, new] for old, new in enumerate(order)),
            )
            for old, new in enumerate(order):
                if agreed[old, new] > _AGREED:
                    tracks[number, new] = tracks[number - 1, old]
        for local in range(_LOCALS):
            if tracks[number, local] < 0 and np.any(heard.active[number, :, local] > 0.5):
                tracks[number, local] = following
                following += 1
    return tracks


def _alone(heard: _Heard, tracks: Indices, voiced: npt.NDArray[np.bool_]) -> Indices:
    """The track of each frame in which one voice is heard alone, else -1.

    A frame is judged by the window in whose middle it lies most.
    """
    track = np.full(heard.count, -1, np.intp)
    frames = np.flatnonzero(voiced)
    if not len(frames):
        return track
    middles = heard.windows + _FRAMES // 2
    after = np.clip(np.searchsorted(middles, frames), 1, max(1, len(middles) - 1))
    after = np.minimum(after, len(middles) - 1)
    before = np.maximum(after - 1, 0)
    nearer = np.abs(frames - middles[before]) <= np.abs(frames - middles[after])
    window = np.where(nearer, before, after)
    active = heard.active[window, frames - heard.windows[window]] > 0.5
    single = np.count_nonzero(active, axis=1) == 1
    track[frames[single]] = tracks[window[single], np.argmax(active[single], axis=1)]
    return track


# Who is heard


def _runs(track: Indices) -> Iterator[Indices]:
    """The frames of each run of one voice, with pauses between them."""
    frames = np.flatnonzero(track >= 0)
    if not len(frames):
        return
    cuts = np.flatnonzero((np.diff(track[frames]) != 0) | (np.diff(frames) > _PAUSE)) + 1
    for first, last in pairwise([0, *cuts.tolist(), len(frames)]):
        for at in range(first, last, _LONGEST):
            run = frames[at : min(at + _LONGEST, last)]
            if len(run) >= _SHORTEST:
                yield run


def _starts(length: int) -> list[int]:
    """Where in so many mel frames those begin that are looked at together; all are."""
    rest = max(0, length - _SEEN)
    return [int(at) for at in np.linspace(0, rest, -(-rest // _SEEN_EVERY) + 1)]


def _shown(mel: Floats) -> Floats:
    """What the encoder is shown of a stretch: one that is short is repeated."""
    energy = float(np.mean(np.sum(mel, axis=1)))
    return np.resize(mel, (_SEEN, _BANDS)) * np.float32(_ENERGY / max(energy, 1e-9))


def _mel(audio: Samples, frames: Indices) -> tuple[Floats, Indices]:
    """The mel frames within `frames`, and the frame that each lies in."""
    first = -(-(int(frames[0]) * _FRAME + _OFFSET) // _MEL_STEP)
    last = ((int(frames[-1]) + 1) * _FRAME + _OFFSET - 1) // _MEL_STEP
    frame_of = (np.arange(first, last + 1) * _MEL_STEP - _OFFSET) // _FRAME
    kept = np.isin(frame_of, frames)
    start = first * _MEL_STEP - _MEL_SIZE // 2
    end = last * _MEL_STEP + _MEL_SIZE // 2
    piece = np.asarray(audio[max(0, start) : end], np.float32)
    piece = np.pad(piece, (max(0, -start), max(0, end - max(audio.size, 0))))
    return mel_energies(piece)[kept], frame_of[kept]


def mel_energies(samples: Samples) -> Floats:
    """(1 + (n - 400) // 160, 40): energies of 40 mel bands in each 25 ms, every 10 ms.

    Those that librosa's `melspectrogram` gives for `n_fft=400, hop_length=160, n_mels=40` where
    nothing is padded: a periodic Hann window, power, Slaney's scale and areas.
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, _MEL_SIZE)[::_MEL_STEP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_MEL_SIZE) / _MEL_SIZE)
    power = np.square(np.abs(np.fft.rfft(frames * hann.astype(np.float32), axis=1)))
    return np.asarray(power @ _mel_bands().T, np.float32)


def _mel_bands() -> npt.NDArray[np.float64]:
    """(bands, 201): the weight of each frequency in each band; Slaney's scale is linear up to
    1 kHz, then logarithmic."""
    linear, step, knee = 200 / 3, np.log(6.4) / 27, 1000.0
    top = knee / linear + np.log(RATE_HZ / 2 / knee) / step
    scale = np.linspace(0, top, _BANDS + 2)
    edges = np.where(
        scale < knee / linear, scale * linear, knee * np.exp(step * (scale - knee / linear))
    )
    hertz = np.fft.rfftfreq(_MEL_SIZE, 1 / RATE_HZ)
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (hertz - low) / (peak - low), (high - hertz) / (high - peak)
    weights = np.maximum(0.0, np.minimum(rising, falling)) * 2 / (high - low)
    return np.asarray(weights, np.float64)


def _centres(
    heard: _Heard,
    tracks: Indices,
    voiced: npt.NDArray[np.bool_],
    stretches: _Stretches,
    directions: Floats,
    parties: int | None,
) -> Floats:
    """The direction of each speaker."""
    middle = (stretches.first + stretches.last) // 2
    neighbours: list[Indices] = []
    beside: list[Beside] = []
    for number, frames, active in heard.each():
        first, last = np.searchsorted(middle, [frames.start, frames.stop])
        near = np.arange(first, last)
        neighbours.append(near)
        speaking = (active > 0.5) & voiced[frames, None]
        seconds = np.count_nonzero(speaking, axis=0) * _FRAME / RATE_HZ
        for one, other in combinations(np.flatnonzero(seconds >= _BESIDE_S).tolist(), 2):
            own = [near[stretches.track[near] == tracks[number, local]] for local in (one, other)]
            if all(map(len, own)):
                beside.append(Beside(float(min(seconds[one], seconds[other])), *own))
    return centres(directions, stretches.seconds(), neighbours, beside, parties)


def _likeness(
    count: int, stretches: _Stretches, directions: Floats, centre: Floats
) -> npt.NDArray[np.float32]:
    """(frames, speakers): how near what is heard around a frame lies to each speaker; 0 for all
    where nothing is known."""
    if not len(stretches):
        return np.zeros((count, 1), np.float32)
    cosines = directions @ centre.T
    times = stretches.covered(np.ones((len(stretches), 1), np.float32))
    return np.asarray(stretches.covered(cosines) / np.maximum(times, 1.0), np.float32)


def _path(likeness: Floats, voiced: npt.NDArray[np.bool_]) -> Indices:
    """The speaker of each voiced frame, so that likeness, less what changes cost, adds up to most;
    -1 in all others."""
    path = np.full(len(voiced), -1, np.intp)
    frames = np.flatnonzero(voiced)
    speakers = likeness.shape[1]
    if speakers == 1 or not len(frames):
        path[frames] = 0
        return path
    total = [0.0] * speakers
    origins = bytearray()  # by frame and speaker: who spoke before
    costs = np.where(np.diff(frames, prepend=-2) > 1, _CHANGE_IN_PAUSE, _CHANGE)
    for at in range(0, len(frames), _STEPS_AT_ONCE):
        steps = slice(at, at + _STEPS_AT_ONCE)
        # Of a few floats each: arrays are slower.
        rows = likeness[frames[steps]].tolist()
        for row, cost in zip(rows, costs[steps].tolist(), strict=True):
            ahead = max(total)
            best, ahead = total.index(ahead), ahead - cost
            origins.extend(one if total[one] >= ahead else best for one in range(speakers))
            total = [max(own, ahead) + like for own, like in zip(total, row, strict=True)]
    one = total.index(max(total))
    for number in range(len(frames) - 1, -1, -1):
        path[frames[number]] = one
        one = origins[number * speakers + one]
    return path


# Turns


def _turns(heard: _Heard, path: Indices, speakers: int, length_ms: int) -> Turns:
    speaking = path[:, None] == np.arange(speakers)
    loudest = path.copy()
    if speakers > 1:
        activity = _activity(heard, path, speakers)
        both = np.flatnonzero((heard.voices() > 1.5) & (path >= 0))
        others = activity[both]
        others[np.arange(len(both)), path[both]] = -1.0
        second, sure = np.argmax(others, axis=1), np.max(others, axis=1) >= _SECOND
        speaking[both[sure], second[sure]] = True
        loudest[both[sure]] = np.argmax(activity[both[sure]], axis=1)
    turns = [
        Turn(speaker, *span)
        for speaker in range(speakers)
        for span in joined(_spans(speaking[:, speaker], length_ms), _GAP_MS)
    ]
    alone = sorted(
        (Turn(speaker, *span) for speaker in range(speakers)
         for span in _spans(loudest == speaker, length_ms)),
        key=lambda turn: turn.start_ms,
    )  # fmt: skip
    for number, (turn, following) in enumerate(pairwise(alone)):
        near = following.start_ms - turn.end_ms <= _GAP_MS
        if turn.speaker == following.speaker and near:
            alone[number] = turn._replace(end_ms=following.start_ms)
    return arranged(turns, alone)


def _activity(heard: _Heard, path: Indices, speakers: int) -> Floats:
    """(frames, speakers): how likely each speaks, by the voices of each window.

    A window's voice is the speaker who has most of the frames in which it is heard alone, and no
    two are the same as long as there are others.
    """
    total = np.zeros((heard.count, speakers), np.float32)
    for _, frames, active in heard.each():
        now = active > 0.5
        single = (np.count_nonzero(now, axis=1) == 1) & (path[frames] >= 0)
        shared = np.stack(
            [
                np.bincount(path[frames][single & now[:, local]], minlength=speakers)
                for local in range(_LOCALS)
            ]
        )
        left = [local for local in range(_LOCALS) if np.any(now[:, local])]
        free = list(range(speakers))
        while left:
            local, speaker = max(
                ((local, speaker) for local in left for speaker in free or range(speakers)),
                key=lambda pair: shared[pair],
            )
            total[frames, speaker] += active[:, local]
            left.remove(local)
            if speaker in free:
                free.remove(speaker)
    return total / heard.times()[:, None]


def _spans(flags: npt.NDArray[np.bool_], length_ms: int) -> list[Span]:
    def ms(frame: int) -> int:
        return min((frame * _FRAME + _OFFSET) * 1000 // RATE_HZ, length_ms)

    return [Span(ms(first), ms(last)) for first, last in _stretches(flags)]


# Models


def _ear(file: Path) -> Any:
    """WhisperX's segmentation model."""
    models = library("pyannote.audio", "transcribe.diarizer=resemblyzer")
    # It tells that the file is of an older version, each time.
    logging.getLogger("lightning.pytorch.utilities.migration.utils").setLevel(logging.WARNING)
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        model = models.Model.from_pretrained(str(file))
    return model.eval()


def _encoder(torch: Any, file: Path) -> Any:
    """Resemblyzer's encoder; raises ValueError for a file that holds none."""

    class Encoder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(_BANDS, 256, 3, batch_first=True)
            self.linear = torch.nn.Linear(256, 256)

        def forward(self, mel: Any) -> Any:
            """(batch, frames, 40) -> (batch, 256), of length 1, no value negative."""
            _, (last, _) = self.lstm(mel)
            raw = torch.relu(self.linear(last[-1]))
            return raw / torch.clamp(torch.linalg.norm(raw, dim=1, keepdim=True), min=1e-9)

    encoder = Encoder()
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)["model_state"]
        # The training's own scale of similarities is in the file too.
        wanted = {name: state[name] for name in encoder.state_dict()}
        encoder.load_state_dict(wanted)
    except Exception as error:  # whatever torch finds wrong with a file
        raise ValueError(
            f"transcribe.diarizer_model={str(file)!r} holds no weights of Resemblyzer's encoder "
            f"({first_line(error)}); name its pretrained.pt, or unset it"
        ) from error
    return encoder.eval()


def _file(package: str, name: str) -> Path:
    """A file of an installed package, which is not imported: it may need what is not installed."""
    found = importlib.util.find_spec(package)
    if found is not None and found.origin is not None:
        path = Path(found.origin).parent / name
        if path.is_file():
            return path
    if package == "resemblyzer":
        raise ValueError(
            "transcribe.diarizer=resemblyzer needs the weights of Resemblyzer: "
            "pip install --no-deps Resemblyzer, or let transcribe.diarizer_model name its "
            "pretrained.pt"
        )
    raise ValueError(
        f"transcribe.diarizer=resemblyzer needs {name} of the package {package}, which the extra "
        "`transcribe` brings: pip install 'callstream[transcribe]'"
    )


def _revision(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:12]
