from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dougong.checkpoint.seal import MANIFEST
from dougong.core.errors import UsageError
from dougong.infer.predict import answers_about, load_predictor
from dougong.infer.texts import TextPredictor
from tests.infer.texts import TEXTS, encoder, translator


def loaded(folder: Path) -> TextPredictor:
    assert answers_about(folder) == "texts"
    predictor = load_predictor(folder, "fp32", "cpu")
    assert isinstance(predictor, TextPredictor)
    return predictor


def test_a_classifier_gives_labels_with_probabilities(tmp_path: Path):
    predictor = loaded(encoder(tmp_path / "m", "classify"))
    answer = predictor.predict(TEXTS[0])
    assert answer["label"] == answer["likeliest"][0]["label"]
    assert {each["label"] for each in answer["likeliest"]} == {"bad", "good", "so so"} == {*(predictor.labels or ())}
    assert sum(each["probability"] for each in answer["likeliest"]) == pytest.approx(1.0)
    several = predictor.predict([*TEXTS, (TEXTS[0], TEXTS[1])], batch_size=2)
    assert several[0]["likeliest"][0]["probability"] == pytest.approx(answer["probability"], abs=1e-5)
    assert several[4]["probability"] != pytest.approx(answer["probability"], abs=1e-5)  # the second text was read


def test_what_is_answered_does_not_depend_on_its_neighbours(tmp_path: Path):
    predictor = loaded(encoder(tmp_path / "m", "sentence"))
    together = predictor.predict([*TEXTS, "good " * 20])
    for text, answer in zip(TEXTS, together, strict=False):
        alone = torch.tensor(predictor.predict(text)["embedding"])
        torch.testing.assert_close(alone, torch.tensor(answer["embedding"]))
        assert alone.norm().item() == pytest.approx(1.0, abs=1e-5)
    assert together[0] != together[1]


def test_of_a_long_text_so_much_is_read_as_sentence_transformers_reads(tmp_path: Path):
    folder = encoder(tmp_path / "m", "sentence")
    long, short = "good film " * 10, "good film " * 3
    assert loaded(folder).predict(long) != loaded(folder).predict(short)
    (folder / MANIFEST).unlink()  # what follows is not what was written
    config = folder / "sentence_bert_config.json"
    for limit, cut in ((8, True), (None, False), (10_000, False)):  # the frame takes two of the tokens
        config.write_text(json.dumps({"max_seq_length": limit}))
        assert (loaded(folder).predict(long) == loaded(folder).predict(short)) == cut


def test_tags_come_with_their_words_and_characters(tmp_path: Path):
    predictor = loaded(encoder(tmp_path / "m", "tag"))
    text = "Anna wrote, in Rome."
    answer = predictor.predict(text)
    assert [word["text"] for word in answer["words"]] == ["Anna", "wrote", ",", "in", "Rome", "."]
    for each in [*answer["words"], *answer["entities"]]:
        assert text[each["start"] : each["end"]] == each["text"]
        assert 0 < each["probability"] <= 1
    long = predictor.predict("anna wrote it " * 20)
    assert len(long["words"]) == 60  # in several examples, joined again


def test_a_question_is_answered_with_characters_of_its_text(tmp_path: Path):
    predictor = loaded(encoder(tmp_path / "m", "spans"))
    context = "anna wrote it in rome and the film was long " * 4
    answer = predictor.predict([("who wrote it", context)])[0]
    assert answer["text"] == context[answer["start"] : answer["end"]] != ""
    with pytest.raises(UsageError, match=r"takes 2 texts at a time, but was given 1: 'who wrote it'. Put a tab"):
        predictor.predict("who wrote it")


def test_a_translator_writes_and_reads_no_more_than_it_can(tmp_path: Path):
    predictor = loaded(translator(tmp_path / "m", num_beams=2, max_extra=2))
    answer = predictor.predict("abc")
    assert isinstance(answer["translation"], str)
    assert answer["score"] < 0
    assert predictor.cut == 0
    predictor.predict("abc" * 20)
    assert predictor.cut == 1
    with pytest.raises(UsageError, match=r"takes 1 text at a time, but was given 2"):
        predictor.predict([("a", "b")])


@pytest.mark.parametrize("head", ["masked_lm", "pretraining"])
def test_hidden_words_are_named(tmp_path: Path, head: str):
    predictor = loaded(encoder(tmp_path / "m", head))
    answers = predictor.predict(["the [MASK] was good", "[MASK] and [MASK]"])
    assert [len(answer["masks"]) for answer in answers] == [1, 2]
    for mask in (mask for answer in answers for mask in answer["masks"]):
        assert len(mask) == 5
        assert mask == sorted(mask, key=lambda each: -each["probability"])
    with pytest.raises(
        UsageError, match=r"must have \[MASK\] in the place of each hidden word, but 'the film' has none"
    ):
        predictor.predict("the film")


def test_the_likeliest_words_are_those_of_the_model_whatever_is_beside(tmp_path: Path):
    predictor = loaded(encoder(tmp_path / "m", "pretraining"))
    tokenizer = predictor.tokenizer
    ids = [tokenizer.id_of("[CLS]"), *tokenizer.encode("the"), tokenizer.id_of("[MASK]"), *tokenizer.encode("was good")]
    tokens = torch.tensor([[*ids, tokenizer.id_of("[SEP]")]])
    with torch.no_grad():
        logits = predictor.model.over_words(predictor.model.features(tokens, torch.tensor([tokens.shape[1]])))
    best = logits[0, ids.index(tokenizer.id_of("[MASK]"))].softmax(-1).topk(5)
    for texts in (["the [MASK] was good"], ["the [MASK] was good", "who [MASK] it in rome " * 3]):
        [mask] = predictor.predict(texts)[0]["masks"]
        assert [each["word"] for each in mask] == [tokenizer.backend.id_to_token(n) for n in best.indices.tolist()]
        assert [each["probability"] for each in mask] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_a_hidden_word_is_one_token_and_must_be_among_those_that_are_read(tmp_path: Path):
    predictor = loaded(encoder(tmp_path / "m", "masked_lm"))
    room = predictor.task.seq_len - 2
    [word] = predictor.tokenizer.encode("film")
    assert word
    assert len(predictor.predict("film " * (room - 1) + "[MASK]")["masks"]) == 1
    assert predictor.cut == 0
    assert len(predictor.predict("[MASK] " + "film " * room)["masks"]) == 1
    assert predictor.cut == 1
    with pytest.raises(
        UsageError, match=rf"must have \[MASK\] among its first {room} tokens, as no more are read, but"
    ):
        predictor.predict("film " * room + "[MASK]")


def test_empty_texts_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="a text must have words, but one is empty"):
        loaded(encoder(tmp_path / "m", "classify")).predict(["good", "  "])
