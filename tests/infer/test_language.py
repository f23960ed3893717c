from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from dougong.checkpoint.weights import save_model
from dougong.core.errors import RecipeError, UsageError
from dougong.data.tokenizer import Tokenizer
from dougong.infer.language import LanguageModel, load_language_model

OPTIONS = {"temperature": 1.0, "top_k": 120, "max_new_tokens": 60, "seed": 4}
PROMPTS = ["def ", "斗拱", "", "a longer beginning of a text"]


@pytest.mark.parametrize("options", [OPTIONS, {"temperature": 0.0}, {"num_beams": 3, "max_new_tokens": 12}])
def test_streamed_pieces_are_the_generated_text(language_model: LanguageModel, options: dict) -> None:
    for prompt in PROMPTS:
        pieces = list(language_model.stream(prompt, **options))
        assert "".join(pieces) == language_model.generate(prompt, **options)
        assert all(pieces)
        "".join(pieces).encode()


def test_text_is_what_the_tokenizer_makes_of_the_tokens(language_model: LanguageModel) -> None:
    for completion in language_model.complete(PROMPTS, **OPTIONS):
        assert completion.text == language_model.tokenizer.decode(completion.tokens)


def test_list_of_prompts_gives_a_text_for_each_whatever_the_batches(language_model: LanguageModel) -> None:
    texts = language_model.generate(PROMPTS, **OPTIONS)
    assert texts == language_model.generate(PROMPTS, **OPTIONS, batch_size=1)
    assert texts == language_model.generate(PROMPTS, **OPTIONS, batch_size=3)
    assert texts[0] == language_model.generate(PROMPTS[0], **OPTIONS)
    assert len(set(texts)) == len(PROMPTS)


def test_stop_string_ends_the_text_before_it_also_over_several_tokens(language_model: LanguageModel) -> None:
    free = language_model.complete(["say"], **OPTIONS)[0]
    threes = [free.text[place : place + 3] for place in range(4, len(free.text) - 2)]
    stop = next(three for three in threes if three.isascii())  # a token is a byte, so this is three tokens
    stopped = language_model.complete(["say"], **OPTIONS, stop=[stop])[0]
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.finish_reason == "stop"
    assert stopped.tokens == free.tokens[: len(stopped.tokens)] != free.tokens
    shown = itertools.accumulate(language_model.stream("say", **OPTIONS, stop=[stop]))
    assert all(stopped.text.startswith(part) for part in shown)


def test_beams_end_at_stop_strings(language_model: LanguageModel) -> None:
    options = {"num_beams": 2, "max_new_tokens": 8}
    letters = [chr(byte) for byte in range(128)]
    stopped = language_model.complete(["say"], **options, stop=letters)[0]
    assert stopped.finish_reason == "stop"
    assert all(ord(letter) > 127 for letter in stopped.text)
    assert language_model.complete(["say"], **options)[0].finish_reason == "length"


def test_empty_prompt_begins_like_a_document(language_model: LanguageModel) -> None:
    eot = language_model.tokenizer.eot_id
    assert language_model.encode_prompt("") == [eot]
    assert language_model.encode_prompt("<|endoftext|>") != [eot]


def test_full_context_is_a_reason_and_too_long_a_prompt_an_error(language_model: LanguageModel) -> None:
    completion = language_model.complete(["x" * 90], temperature=0.0)[0]
    assert completion.finish_reason == "length"
    assert len(completion.tokens) == 6
    for call in (language_model.generate, language_model.stream):
        with pytest.raises(UsageError, match="context of 96 tokens, but has 120"):
            call("x" * 120)


def test_unknown_options_are_refused_with_the_nearest(language_model: LanguageModel) -> None:
    with pytest.raises(RecipeError, match="Did you mean top_k"):
        language_model.generate("x", topk=3)


def test_score_is_the_log_probability_of_each_token_after_those_before(language_model: LanguageModel) -> None:
    text = "a" * 3 + "bcd" * 20
    tokens = language_model.tokenizer.encode(text)
    inputs = torch.tensor([[language_model.tokenizer.eot_id, *tokens]])
    scores = language_model.model(inputs)[0].double().log_softmax(-1)
    expected = sum(scores[place, token].item() for place, token in enumerate(tokens))
    assert language_model.score([text, ""]) == [pytest.approx(expected, rel=1e-5), 0.0]
    assert sum(math.exp(score) for score in language_model.score(["a", "b"])) < 1
    with pytest.raises(UsageError, match="context of 96 tokens, but has 97"):
        language_model.score(["a" * 97])


def test_tokenizer_with_more_tokens_than_the_model_is_refused(
    make_model: Callable[..., nn.Module], tokenizer: Tokenizer
) -> None:
    with pytest.raises(UsageError, match="at most the model's 200 tokens, but has 257"):
        LanguageModel(make_model(vocab_size=200), tokenizer)


def test_folder_of_a_model_or_of_its_run_opens(language_model: LanguageModel, tmp_path: Path) -> None:
    language_model.tokenizer.save(tmp_path)
    assets = {file.name: file.read_bytes() for file in tmp_path.glob("*.json")}
    save_model(language_model.model, tmp_path / "model", assets)
    expected = language_model.generate("x", temperature=0.0)
    for folder in (tmp_path / "model", tmp_path):
        opened = load_language_model(folder, precision="fp32", device="cpu")
        assert opened.generate("x", temperature=0.0) == expected
        assert opened.config == language_model.config
        assert not opened.model.blocks[0].attention.qkv.weight.is_contiguous(), "laid out for decoding"


def test_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be a model folder"):
        load_language_model(tmp_path / "nothing")
