"""Words judged by a classifier of transformers, tried on models whose weights mean nothing.

No real model can be had here: how right one is says `python -m benchmarks.findings
--sentiment-model`, where there is one.
"""

from __future__ import annotations

import json
import math
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmarks import findings
from schemas.events import (
    CallEnriched,
    Flag,
    SentimentLabel,
    SummaryRequested,
    VoiceEmotion,
)
from services.assembly import Parts
from services.cli.doctor import Checked, checks
from services.cli.explain import explain
from services.enrich.ground import ground
from services.enrich.handler import enrich_call, stage, summary_stage
from services.enrich.insight import Insight
from services.enrich.rules import load_rules
from services.enrich.sentiment import TextModel
from services.enrich.sentiment_model import LABELS, SentimentModel, middle, worths
from services.enrich.settings import EnrichSettings, LlmSettings, SentimentSettings
from services.loopback import in_use
from services.runtime.log import Message
from services.runtime.stage import Envelope, Output, Stage
from services.settings import Settings, WrongSetting, load
from tests.enrich.calls import call, segment
from tests.enrich.transformer_models import build_classifier, libraries

RULES = load_rules()
ROOT = Path(__file__).resolve().parents[2]
# Batches are padded differently: floats differ in their last digits, and rounding shows it.
ROUNDING = 2e-4

texts = st.text(
    st.sampled_from(list("abcxyz thank you。，！refund我很高兴生气 \n\t😀ß[SEP]"))
    | st.characters(),
    max_size=200,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_classifier(tmp_path_factory.mktemp("models") / "feelings")


@pytest.fixture(scope="module")
def model(folder: Path) -> SentimentModel:
    return made(folder)


def made(folder: Path | str, **settings: Any) -> SentimentModel:
    return SentimentModel(SentimentSettings(model=str(folder), device="cpu", **settings))


# Labels, without any model


def test_what_labels_are_worth_by_name() -> None:
    def of(*named: str) -> list[float]:
        return worths(named, {}, "m")

    assert of("NEGATIVE", "POSITIVE") == [-1.0, 1.0]
    assert of("neg", "neu", "pos") == [-1.0, 0.0, 1.0]
    assert of("1 star", "2 stars", "3 stars", "4 stars", "5 stars") == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert of("star_1", "Star 5") == [-1.0, 1.0]
    assert of("负面", "中性", "正面") == [-1.0, 0.0, 1.0]
    assert of("Very Negative", "Negative", "Neutral", "Positive", "Very Positive") == [
        -1.0, -0.5, 0.0, 0.5, 1.0,
    ]  # fmt: skip
    assert of("negative (stars 1, 2 and 3)", "positive (stars 4 and 5)") == [-1.0, 1.0]
    joy, anger, surprise = of("joy", "anger", "surprise")
    assert anger < surprise == 0.0 < joy
    assert all(-1.0 <= worth <= 1.0 for worth in LABELS.values())


def test_unknown_labels_are_refused_with_the_setting_and_the_mend() -> None:
    with pytest.raises(ValueError, match=r"enrich\.sentiment\.model='m'.*LABEL_0, LABEL_1") as told:
        worths(["LABEL_0", "LABEL_1"], {}, "m")
    assert "CALLSTREAM_ENRICH__SENTIMENT__LABELS='{" in str(told.value)
    example = re.search(r"LABELS='(.*)'", str(told.value))
    assert example is not None
    assert set(json.loads(example[1])) == {"LABEL_0", "LABEL_1"}
    with pytest.raises(ValueError, match="LABEL_1;"):
        worths(["LABEL_0", "LABEL_1"], {"label_0": -1.0}, "m")
    assert worths(["LABEL_0", "LABEL_1"], {"label_0": -1.0, "LABEL_1": 0.9}, "m") == [-1.0, 0.9]


def test_what_is_said_of_labels_comes_before_their_names_and_must_be_of_labels() -> None:
    assert worths(["negative", "positive"], {"Positive": 0.4}, "m") == [-1.0, 0.4]
    with pytest.raises(ValueError, match=r"names postive; the labels .* are negative, positive"):
        worths(["negative", "positive"], {"postive": 1.0}, "m")


def test_labels_that_tell_nothing_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="all worth 0"):
        worths(["neutral", "surprise"], {}, "m")


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "m", "labels": {"a": 1.5}},
        {"model": "m", "labels": {"a": math.nan}},
        {"model": "m", "device": "gpu"},
        {"model": "m", "batch": 0},
        {"model": "m", "languages": ["English"]},
        {"labels": {"a": 1.0}},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SentimentSettings.model_validate(wrong)


@given(st.text(min_size=2, max_size=80))
def test_a_text_is_cut_into_two_that_are_the_text(text: str) -> None:
    cut = middle(text)
    assert 0 < cut < len(text)


def test_a_text_is_cut_after_a_sentence_sooner_than_within_one() -> None:
    text = "I waited for an hour and then. Nobody came, and nobody called me."
    assert text[: middle(text)] == "I waited for an hour and then. "
    assert middle("等了一个小时没有人来。后来他们打电话给我") == len("等了一个小时没有人来。")
    assert middle("我" * 10) == 5


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"enrich\.sentiment\.model needs the extra `enrich`.*pip"):
        made("any")


# A model


@tried(deadline=None, max_examples=25)
@given(st.lists(texts, max_size=12))
def test_scores_are_in_range_and_of_each_text(model: SentimentModel, some: list[str]) -> None:
    found = model.scores(some)
    assert len(found) == len(some)
    for text, score in zip(some, found, strict=True):
        assert (score is None) == (not text.strip())
        assert score is None or -1.0 <= score <= 1.0


def test_different_words_feel_different(model: SentimentModel) -> None:
    found = model.scores(["thank you very much", "refund", "我很高兴", "angry"])
    assert len(set(found)) == 4


@tried(deadline=None, max_examples=25)
@given(st.lists(texts, min_size=2, max_size=12))
def test_a_batch_says_what_each_says_alone(model: SentimentModel, some: list[str]) -> None:
    together, alone = model.scores(some), [model.scores([text])[0] for text in some]
    assert together == pytest.approx(alone, abs=ROUNDING)


@pytest.mark.parametrize("kind", ["DistilBert", "Bert"])
@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_scores_are_probability_times_worth(tmp_path: Path, kind: str, problem: str) -> None:
    labels = ("joy", "anger", "neutral")
    feelings = made(build_classifier(tmp_path / "m", labels, kind=kind, problem=problem))
    torch, hub = libraries()
    tokenizer = hub.AutoTokenizer.from_pretrained(tmp_path / "m")
    plain = hub.AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")
    asked = tokenizer(["thank you"], return_tensors="pt")
    if kind == "DistilBert":
        asked.pop("token_type_ids", None)
    with torch.no_grad():
        (logits,) = plain(**asked).logits.tolist()
    if problem.startswith("single"):
        whole = sum(math.exp(it) for it in logits)
        shares = [math.exp(it) / whole for it in logits]
    else:
        shares = [1 / (1 + math.exp(-it)) for it in logits]
        shares = [share / max(1.0, sum(shares)) for share in shares]
    worth = sum(share * LABELS[name] for share, name in zip(shares, labels, strict=True))
    assert feelings.scores(["thank you"]) == [pytest.approx(worth, abs=ROUNDING)]


def test_stars_go_from_the_worst_to_the_best(tmp_path: Path) -> None:
    stars = ["1 star", *(f"{number} stars" for number in range(2, 6))]
    for says, worth in (("1 star", -1.0), ("4 stars", 0.5)):
        feelings = made(build_classifier(tmp_path / says, stars, says=says))
        assert feelings.scores(["a"]) == [pytest.approx(worth, abs=1e-3)]


def test_labels_of_no_name_are_refused_at_start_and_taken_with_their_worth(tmp_path: Path) -> None:
    folder = build_classifier(tmp_path / "m", ("LABEL_0", "LABEL_1"), says="LABEL_1")
    with pytest.raises(ValueError, match="LABEL_0, LABEL_1; say what each is worth"):
        made(folder)
    feelings = made(folder, labels={"LABEL_0": -1, "LABEL_1": 0.6})
    assert feelings.scores(["a"]) == [pytest.approx(0.6, abs=1e-3)]


def test_a_long_text_is_judged_in_pieces_and_none_is_cut_off(model: SentimentModel) -> None:
    text = "thank you very much. " * 40 + "angry angry refund! " * 40
    pieces = list(model._pieces(text))
    assert "".join(piece for piece, _ in pieces) == text
    assert len(pieces) > 4
    assert max(size for _, size in pieces) <= 32
    scores = model.scores([piece for piece, _ in pieces])
    weights = [size for _, size in pieces]
    mean = sum((s or 0.0) * w for s, w in zip(scores, weights, strict=True)) / sum(weights)
    assert model.scores([text]) == [pytest.approx(mean, abs=ROUNDING)]
    # What comes last counts.
    assert model.scores([text])[0] != model.scores(["thank you very much. " * 40])[0]


def test_a_word_longer_than_the_model_reads_is_judged(model: SentimentModel) -> None:
    assert all(score is not None for score in model.scores(["x" * 3_000, "我" * 3_000]))


def test_the_limit_is_the_least_of_what_tokenizer_and_model_say(tmp_path: Path) -> None:
    of_the_model = made(build_classifier(tmp_path / "a", positions=40))
    of_the_tokenizer = made(build_classifier(tmp_path / "b", positions=64, limit=24))
    assert (of_the_model._limit, of_the_tokenizer._limit) == (40, 24)
    with pytest.raises(ValueError, match="reads 4 tokens, too few"):
        made(build_classifier(tmp_path / "c", limit=4))


def test_what_is_longer_than_allowed_is_not_judged(folder: Path) -> None:
    feelings = made(folder, max_characters=100)
    assert feelings.scores(["a" * 101, "a" * 100, ""])[::2] == [None, None]
    assert feelings.scores(["a" * 100])[0] is not None


def test_a_day_of_talk_takes_the_memory_of_a_batch(folder: Path) -> None:
    feelings = made(folder, batch=8)
    shapes: list[tuple[int, int]] = []

    def seen(module: Any, arguments: Any, named: dict[str, Any]) -> None:
        shapes.append(tuple(named["input_ids"].shape))

    feelings._its.model.register_forward_pre_hook(seen, with_kwargs=True)
    some = [f"thank you {number} " * (1 + number % 12) for number in range(1_000)]
    assert None not in feelings.scores(some)
    assert max(count for count, _ in shapes) == 8
    assert max(size for _, size in shapes) <= 32
    assert len(shapes) >= 1_000 / 8


def test_what_is_said_again_and_again_is_judged_once(folder: Path) -> None:
    feelings = made(folder, batch=8)
    judged: list[int] = []
    feelings._its.model.register_forward_pre_hook(
        lambda module, arguments, named: judged.append(named["input_ids"].shape[0]),
        with_kwargs=True,
    )
    assert len(set(feelings.scores(["yes"] * 500))) == 1
    assert sum(judged) == 1


def test_threads_get_what_one_alone_gets(model: SentimentModel) -> None:
    some = [f"thank you {number} refund 我 " * (1 + number % 7) for number in range(60)]
    alone = model.scores(some)
    found: dict[int, list[float | None]] = {}

    def ask(number: int) -> None:
        found[number] = model.scores(some, replay=number % 2 == 1)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[number] for number in range(4)] == [alone] * 4


def test_a_batch_without_room_is_halved(folder: Path) -> None:
    feelings = made(folder, batch=8)
    sizes: list[int] = []

    def short_of_room(module: Any, arguments: Any, named: dict[str, Any]) -> None:
        sizes.append(named["input_ids"].shape[0])
        if sizes[-1] > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    before = feelings.scores([str(number) for number in range(8)])
    feelings._its.model.register_forward_pre_hook(short_of_room, with_kwargs=True)
    assert feelings.scores([str(number) for number in range(8)]) == pytest.approx(
        before, abs=ROUNDING
    )
    assert sizes == [8, 4, 2, 2, 4, 2, 2]


# What cannot be had


def test_a_folder_is_loaded_without_any_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("somebody is asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    assert made(folder).scores(["a"])[0] is not None


def test_a_model_is_known_by_its_name_and_what_is_in_it(tmp_path: Path) -> None:
    one = made(build_classifier(tmp_path / "my model+1"))
    other = made(build_classifier(tmp_path / "other" / "my model+1", seed=2))
    assert re.fullmatch(r"my-model-1@[0-9a-f]{8}", one.name)
    assert one.name != other.name
    assert str(tmp_path) not in one.name


@pytest.mark.parametrize(
    ("breaks", "why"),
    [
        (lambda folder: (folder / "config.json").unlink(), "is no folder with a config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded: OSError"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "cannot be loaded"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "nothing"}'),
         "cannot be loaded"),
        (lambda folder: [it.unlink() for it in folder.glob("*token*")] and
         (folder / "vocab.txt").unlink(), "cannot be"),
    ],
)  # fmt: skip
def test_a_broken_folder_is_named_with_setting_and_mend(
    tmp_path: Path, breaks: Any, why: str
) -> None:
    folder = build_classifier(tmp_path / "m")
    breaks(folder)
    with pytest.raises(ValueError, match=why) as told:
        made(folder)
    assert f"enrich.sentiment.model={str(folder)!r}" in str(told.value)


def test_a_model_that_was_not_trained_to_classify_is_refused(tmp_path: Path) -> None:
    folder = build_classifier(tmp_path / "m")
    _, hub = libraries()
    hub.AutoModel.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(ValueError, match="no weights for classifier"):
        made(folder)


def test_a_model_that_gives_one_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gives one number and no labels"):
        made(build_classifier(tmp_path / "m", ("positive",)))


def test_a_model_whose_tokenizer_is_anothers_is_refused_at_start(tmp_path: Path) -> None:
    folder = build_classifier(tmp_path / "m")
    torch, hub = libraries()
    config = hub.AutoConfig.from_pretrained(folder)
    config.vocab_size = 7
    torch.manual_seed(1)
    hub.DistilBertForSequenceClassification(config).save_pretrained(folder)
    with pytest.raises(ValueError, match="cannot judge a text: IndexError"):
        made(folder)


def test_a_name_that_is_none_is_refused() -> None:
    libraries()
    for name in ("a/b/c", "what is this?", "./nowhere"):
        with pytest.raises(ValueError, match=r"is neither a folder|is no folder"):
            made(name)


_ASKS = """
import sys
from services.enrich.sentiment_model import SentimentModel
from services.enrich.settings import SentimentSettings
from services.runtime.errors import Transient
try:
    SentimentModel(SentimentSettings(model="owner/no-such-model"))
except Transient as missing:
    print(missing.reason, missing.detail)
"""


@pytest.mark.parametrize(
    ("environment", "why"),
    [({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"), ({}, "the hub cannot be reached")],
)
def test_a_hub_that_is_not_to_be_had_is_told_with_the_mend(
    tmp_path: Path, environment: dict[str, str], why: str
) -> None:
    libraries()
    nobody = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    answer = subprocess.run(
        [sys.executable, "-c", _ASKS], cwd=ROOT, capture_output=True, text=True, timeout=240,
        env={"PATH": "/usr/bin:/bin", **nobody, **environment},
    )  # fmt: skip
    assert answer.stdout.startswith("model_missing enrich.sentiment.model='owner/no-such-model'"), (
        answer.stdout + answer.stderr
    )
    assert why in answer.stdout
    assert "copy its folder here and name that, or let the hub be reached once" in answer.stdout


# In a call


class Says:
    """A model that says one thing of every text, or fails."""

    name = "says@1a2b3c4d"

    def __init__(self, score: float | None = 0.9, reads: Sequence[str] = ()) -> None:
        self.score, self._reads = score, reads
        self.asked: list[str] = []
        self.replays: list[bool] = []

    def reads(self, language: str) -> bool:
        return not self._reads or language in self._reads

    def scores(self, texts: Sequence[str], *, replay: bool = False) -> list[float | None]:
        self.asked += texts
        self.replays.append(replay)
        if self.score is not None and math.isnan(self.score):
            raise RuntimeError("the model broke")
        return [self.score for _ in texts]


CALL = call(
    segment("i", 0, 1_000, "For billing press one.", 0),
    segment("a", 1_000, 2_000, "How can I help you?", 1),
    segment("c", 2_000, 4_000, "I am very angry about this.", 2),
    segment("c", 4_000, 5_000, "thank you for watching", 3, flags=[Flag.NO_SPEECH]),
    segment("c", 5_000, 6_000, "...", 4),
    segment("c", 6_000, 7_000, "Ich bin sehr wütend.", 5, language="de"),
    segment("c", 7_000, 8_000, "I see.", 6, emotion=VoiceEmotion.ANGRY),
)


def felt(text_model: TextModel | None) -> dict[int, tuple[float | None, str]]:
    known = ground(CALL, RULES, EnrichSettings(), text_model)
    return {each.segment_id: (each.text_score, each.engine) for each in known.felt}


def test_what_a_model_says_counts_in_place_of_the_lexicons() -> None:
    told = Says()
    found, floor = felt(told), felt(None)
    assert found[1] == found[2] == (0.9, "says@1a2b3c4d")
    assert floor[2][0] is not None
    assert floor[2][0] < -0.25
    assert floor[2][1] == "lexicon"
    # It reads what the lexicons do not.
    assert (floor[5][0], found[5]) == (None, (0.9, "says@1a2b3c4d"))
    assert found[6] == (0.9, "says@1a2b3c4d+voice:" + CALL.engine.name)
    # Nothing that was not said, and no machine.
    assert (found[3], found[4]) == ((None, "lexicon"), (None, "lexicon"))
    assert 0 not in found
    assert told.asked == [CALL.segments[at].text for at in (1, 2, 5, 6)]


def test_what_nobody_tells_stays_unknown() -> None:
    known = ground(CALL, RULES, EnrichSettings(), Says())
    unknown = [each.segment_id for each in known.felt if each.label is SentimentLabel.UNKNOWN]
    assert unknown == [3, 4]
    assert all(each.score == 0.0 for each in known.felt if each.segment_id in unknown)


def test_emotions_with_their_evidence_stay_the_lexicons() -> None:
    now = CALL.transcribed_at
    floor, _ = enrich_call(CALL, "t", RULES, now, EnrichSettings())
    judged, _ = enrich_call(CALL, "t", RULES, now, EnrichSettings(), text_model=Says())
    emotions = [each for each in floor.findings if each.engine == "lexicon"]
    assert emotions
    assert emotions == [each for each in judged.findings if each.engine == "lexicon"]
    mood = {each.name: each.value for each in judged.metrics}
    assert mood["customer_sentiment"] > 0.25
    assert {each.name: each.value for each in floor.metrics}["customer_sentiment"] < -0.1


def test_a_model_reads_the_languages_that_it_was_said_to_read(
    folder: Path,
) -> None:
    told = Says(reads=["en"])
    found = felt(told)
    assert found[5] == (None, "lexicon")
    assert found[2][1] == told.name
    feelings = made(folder, languages=["en", "zh"])
    assert [feelings.reads(it) for it in ("en-GB", "zh", "de", "und", "")] == [
        True, True, False, True, True,
    ]  # fmt: skip


def test_a_segment_that_a_model_tells_nothing_of_is_the_lexicons() -> None:
    assert felt(Says(None)) == felt(None)


def test_a_model_that_fails_leaves_the_call_to_the_lexicons_and_the_log_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = CALL.transcribed_at
    found, _ = enrich_call(CALL, "t", RULES, now, EnrichSettings(), text_model=Says(math.nan))
    assert found == enrich_call(CALL, "t", RULES, now, EnrichSettings())[0]
    told = capsys.readouterr()
    line = next(it for it in (told.out + told.err).splitlines() if "the model failed" in it)
    assert "says@1a2b3c4d" in line
    assert "the model broke" in line


def test_a_model_with_numbers_that_are_none_fails_and_is_refused_at_start(tmp_path: Path) -> None:
    folder = build_classifier(tmp_path / "m")
    torch, hub = libraries()
    broken = hub.AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        broken.classifier.bias.fill_(math.nan)
    broken.save_pretrained(folder)
    with pytest.raises(ValueError, match="cannot judge a text: ArithmeticError"):
        made(folder)


def test_both_stages_ask_the_model_and_a_replay_says_that_it_is_one() -> None:
    told, now = Says(), CALL.transcribed_at
    nobody = LlmSettings(url="http://127.0.0.1:9/v1", model="m", patience_s=0)
    chosen = EnrichSettings(llm=nobody)
    insight = Insight(nobody)
    enrich = stage(chosen, RULES, lambda: now, insight=insight, text_model=told)
    summarize = summary_stage(chosen, RULES, insight, lambda: now, text_model=told)

    def handled(each: Stage, event: Any, generation: int = 0) -> list[Output]:
        topic = "calls.replay" if generation else "calls.transcribed"
        message = Message(topic, 0, 0, b"t/c", b"", (), 0)
        ((_, outcome),) = each.handle([Envelope(event, message, "e", generation=generation)])
        assert not isinstance(outcome, Exception)
        return list(outcome)

    outputs = handled(enrich, CALL)
    (asked,) = (it.event for it in outputs if isinstance(it.event, SummaryRequested))
    for found in (outputs[0], handled(summarize, asked)[0], handled(enrich, CALL, 1)[0]):
        assert isinstance(found.event, CallEnriched)
        assert {it.segment_id: it.engine for it in found.event.sentiments}[2] == told.name
    assert told.replays == [False, False, True]


def test_a_real_model_in_a_call(tmp_path: Path) -> None:
    glad = made(build_classifier(tmp_path / "glad", says="positive"))
    found = felt(glad)
    score, engine = found[2]
    assert score == pytest.approx(1.0, abs=1e-3)
    assert engine == glad.name


# Around it


def settings(tmp_path: Path, **sentiment: Any) -> Settings:
    return Settings.model_validate(
        {"data_dir": tmp_path / "data", "enrich": {"sentiment": sentiment}}
    )


def test_every_stage_shares_one_model_and_a_wrong_one_stops_the_start(
    folder: Path, tmp_path: Path
) -> None:
    parts = Parts(settings(tmp_path, model=str(folder)))
    assert parts.text_model is parts.text_model is not None
    assert parts.stage("enrich").name == "enrich"
    assert Parts(settings(tmp_path)).text_model is None
    with pytest.raises(ValueError, match=r"enrich\.sentiment\.model="):
        Parts(settings(tmp_path, model=str(tmp_path / "nothing"))).stage("enrich")


def test_a_suite_tells_by_what_it_judges(tmp_path: Path) -> None:
    told = in_use(settings(tmp_path, model="a/b", labels={"x": 1}, languages=["en"]))["enrich"]
    assert told["sentiment.model"] == "a/b"
    assert json.loads(json.dumps(told)) == told


def test_the_settings_are_read_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "MODEL": "owner/model", "LABELS": '{"LABEL_0": -1, "LABEL_1": 0.5}', "LANGUAGES": '["en"]',
        "BATCH": "4",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"CALLSTREAM_ENRICH__SENTIMENT__{name}", value)
    found = load().enrich.sentiment
    assert (found.model, found.batch, found.languages) == ("owner/model", 4, ["en"])
    assert found.labels == {"LABEL_0": -1.0, "LABEL_1": 0.5}
    monkeypatch.setenv("CALLSTREAM_ENRICH__SENTIMENT__LABELS", '{"LABEL_0": -2}')
    with pytest.raises(WrongSetting, match="CALLSTREAM_ENRICH__SENTIMENT__LABELS__LABEL_0=-2"):
        load()


def test_doctor_tries_the_model_and_says_the_mend(folder: Path, tmp_path: Path) -> None:
    def told(**sentiment: Any) -> Checked:
        chosen = settings(tmp_path, **sentiment)
        chosen = chosen.model_copy(
            update={"transcribe": chosen.transcribe.model_copy(update={"engine": "stub"})}
        )
        return next(it for it in checks(chosen) if it.what == "sentiment")

    assert told().verdict == "ok"
    good = told(model=str(folder))
    assert good.verdict == "ok"
    assert "feelings@" in good.found
    bad = told(model=str(tmp_path / "nothing"))
    assert bad.verdict == "fail"
    assert "enrich.sentiment.model" in bad.found
    assert "CALLSTREAM_ENRICH__SENTIMENT__MODEL" in bad.mend


def test_an_explanation_says_that_a_model_judged_and_sees_no_disagreement() -> None:
    now = CALL.transcribed_at
    enriched, _ = enrich_call(CALL, "t", RULES, now, EnrichSettings(), text_model=Says())
    found = {each.name: each for each in explain(CALL, enriched).groups["sentiments"]}
    angry = found["2"]
    assert angry.agrees is True
    assert any("judged by the model says@1a2b3c4d" in said for said in angry.comes_from)
    assert not any("lexicon, not in the event" in said for said in angry.comes_from)
    assert any("do not count" in said for said in angry.comes_from)
    assert not any("judged by the model" in said for said in found["4"].comes_from)
    plain, _ = enrich_call(CALL, "t", RULES, now, EnrichSettings())
    floor = {each.name: each for each in explain(CALL, plain).groups["sentiments"]}
    assert any("in the lexicon, not in the event" in said for said in floor["2"].comes_from)
    whole = explain(CALL, enriched)
    assert not [e.name for held in whole.groups.values() for e in held if e.agrees is False]


@pytest.fixture
def labelled(monkeypatch: pytest.MonkeyPatch) -> findings.LabelledSet:
    whole = findings.load_labelled()
    few = findings.LabelledSet(
        whole.emotions, whole.topics, whole.alerts, whole.criteria, whole.segments[:12],
        whole.calls[:2],
    )  # fmt: skip
    monkeypatch.setattr(findings, "load_labelled", lambda: few)
    return few


def test_the_labelled_set_measures_a_model(
    labelled: findings.LabelledSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = build_classifier(tmp_path / "glad", ("LABEL_0", "LABEL_1"), says="LABEL_1")
    worth = '{"LABEL_0": -1, "LABEL_1": 1}'
    asked = ["--split", "all", "--json", "--sentiment-model", str(folder)]
    assert findings.main([*asked, "--sentiment-labels", worth]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [name for name in found["sentiment_by"] if name.startswith("glad@")]
    told = {name for row in found["segments"]["sentiment"]["confusion"].values() for name in row}
    assert told == {"positive"}
    assert findings.main(["--split", "all", "--json"]) == 0
    floor = json.loads(capsys.readouterr().out)
    assert set(floor["sentiment_by"]) == {"lexicon"}
    assert floor["segments"]["emotions"] == found["segments"]["emotions"]
    with pytest.raises(SystemExit):
        findings.main(asked)
    assert "--sentiment-model" in capsys.readouterr().err
