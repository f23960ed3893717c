"""`dougong generate --suffix`: what is between two texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dougong.checkpoint.weights import save_model
from dougong.data.vocabulary import FIM, BpeConfig
from dougong.models.gpt import GPTConfig

GREEDY = ("--temperature", "0", "--max-new-tokens", "5", "--precision", "fp32")


@pytest.fixture
def save(tmp_path: Path) -> Any:
    """Gives a function from special tokens to the folder of a model with random weights."""

    def made(name: str, special: tuple[str, ...]) -> str:
        tokenizer = BpeConfig(vocab_size=257 + len(special), special=special).build(lambda: ["a"], list)
        model = GPTConfig(vocab_size=tokenizer.vocab_size, max_seq_len=32, num_layers=1, num_heads=2, dim=16).build()
        model.init_weights(3)
        tokenizer.save(tmp_path)
        assets = {file: (tmp_path / file).read_bytes() for file in ("tokenizer.json", "tokenizer_config.json")}
        save_model(model, tmp_path / name, assets)
        return name

    return made


def test_the_text_between_is_printed_with_both_ends(save: Any, dougong: Any) -> None:
    model = save("model", FIM)
    [found] = dougong("generate", model, "def f(x):", "--suffix", "return y", *GREEDY, "--json").json
    assert [found["prompt"], found["suffix"]] == ["def f(x):", "return y"]
    one = dougong("generate", model, "def f(x):", "--suffix", "return y", *GREEDY)
    assert one.out == f"def f(x):{found['text']}return y\n"
    several = dougong("generate", model, "def f(x):", "a", "--suffix", "return y", *GREEDY).out
    assert several.startswith(f"def f(x):{found['text']}return y\n\na")
    other = dougong("generate", model, "def f(x):", "--suffix", "", *GREEDY, "--json").json
    assert other[0]["tokens"] != found["tokens"]  # so the suffix is read
    assert "suffix" not in dougong("generate", model, "def f(x):", *GREEDY, "--json").json[0]


def test_a_model_that_cannot_is_refused_in_one_sentence(save: Any, dougong: Any) -> None:
    answer = dougong("generate", save("plain", ()), "def f(x):", "--suffix", "return y", *GREEDY)
    assert (answer.code, answer.out) == (2, ""), answer.err
    assert answer.sentence == (
        "dougong: error[E-USAGE]: to fill in the middle, the tokenizer must have the special tokens <|fim_prefix|>, "
        "<|fim_suffix|>, <|fim_middle|>, but lacks <|fim_prefix|>, <|fim_suffix|>, <|fim_middle|>. Take a model that "
        "was trained with them (see the recipe gpt-stdlib-fim), or go on without."
    )
    assert dougong("generate", "plain", "def f(x):", *GREEDY).code == 0
