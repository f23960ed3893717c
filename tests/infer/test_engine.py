from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dougong.checkpoint.weights import load_model
from dougong.core.errors import UsageError
from dougong.infer.config import GenerateConfig
from dougong.infer.engine import Decoding
from dougong.infer.layout import lay_out_for_decoding

transformers = pytest.importorskip("transformers")
GREEDY = GenerateConfig(temperature=0, max_new_tokens=40)
SAMPLED = GenerateConfig(temperature=0.9, top_k=40, max_new_tokens=40, seed=11)
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "vocab_size": 300,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": 300, "initializer_range": 0.3}


def decoded(model: nn.Module, prompts: Sequence[Sequence[int]], config: GenerateConfig, **options: Any) -> Decoding:
    decoding = Decoding(model, prompts, config, **options)
    while decoding.live:
        decoding.step()
    return decoding


@pytest.mark.parametrize("family", ["GPT2", "Llama", "Qwen3"])
def test_greedy_tokens_equal_those_of_transformers(family: str, tmp_path: Path) -> None:
    own = GPT2 if family == "GPT2" else LLAMA | ({"head_dim": 16} if family == "Qwen3" else {})
    config = getattr(transformers, f"{family}Config")(**own, bos_token_id=None, eos_token_id=None)
    class_name = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    torch.manual_seed(2)
    theirs = getattr(transformers, class_name)(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = lay_out_for_decoding(load_model(tmp_path))
    for prompt in ([7], [1, 2, 3, 4, 5], list(range(40, 60))):
        expected = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=64,
            do_sample=False,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        assert decoded(ours, [prompt], GenerateConfig(temperature=0, max_new_tokens=64)).tokens == [expected]
        assert len(set(expected)) > 5, "a text that repeats itself would prove little"


@pytest.mark.parametrize("kind", ["gpt2", "banded", "llama"])
def test_cached_decoding_equals_reading_the_whole_text_each_time(
    make_model: Callable[..., nn.Module], prompts: list[list[int]], kind: str
) -> None:
    model = make_model(kind)
    for prompt in prompts:
        text = list(prompt)
        with torch.inference_mode():
            for _ in range(40):
                text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
        assert decoded(model, [prompt], GREEDY).tokens == [text[len(prompt) :]]


@pytest.mark.parametrize("config", [GREEDY, SAMPLED, SAMPLED.replace(repetition_penalty=1.2, top_p=0.9)])
@pytest.mark.parametrize("kind", ["gpt2", "banded", "llama"])
def test_ragged_batch_equals_each_prompt_alone(
    make_model: Callable[..., nn.Module], prompts: list[list[int]], kind: str, config: GenerateConfig
) -> None:
    model = make_model(kind)
    eot = decoded(model, prompts, config).tokens[0][3]  # so the first row leaves the batch early
    together = decoded(model, prompts, config, eot_id=eot)
    alone = [decoded(model, [prompt], config, eot_id=eot, rows=[row]) for row, prompt in enumerate(prompts)]
    assert together.tokens == [one.tokens[0] for one in alone]
    assert together.reasons == [one.reasons[0] for one in alone]
    assert len(together.tokens[0]) < max(map(len, together.tokens))


def test_draws_belong_to_the_row_and_the_seed(make_model: Callable[..., nn.Module]) -> None:
    model = make_model()
    twice = decoded(model, [[1, 2], [1, 2]], SAMPLED)
    assert twice.tokens[0] != twice.tokens[1]
    assert decoded(model, [[1, 2]], SAMPLED, rows=[1]).tokens[0] == twice.tokens[1]
    assert decoded(model, [[1, 2]], SAMPLED.replace(seed=12)).tokens[0] != twice.tokens[0]


def test_each_row_says_why_it_ended(make_model: Callable[..., nn.Module]) -> None:
    model = make_model()
    free = decoded(model, [[5], [6]], GREEDY).tokens
    eot = next(token for token in free[0] if token not in free[1])
    ended = decoded(model, [[5], [6]], GREEDY, eot_id=eot)
    assert ended.reasons == ["eot", "length"]
    assert ended.tokens == [free[0][: free[0].index(eot) + 1], free[1]]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_full_context_ends_a_row_and_not_its_neighbours(make_model: Callable[..., nn.Module], kind: str) -> None:
    model = make_model(kind)
    longest = model.config.max_seq_len
    prompts = [[3] * (longest - 2), [4] * 9, [5] * (longest - 6)]
    decoding = decoded(model, prompts, GREEDY)
    assert decoding.reasons == ["length"] * 3
    assert [len(tokens) for tokens in decoding.tokens] == [2, 40, 6]
    assert decoding.tokens[1] == decoded(model, prompts[1:2], GREEDY).tokens[0]


def test_row_ended_from_outside_generates_no_more(make_model: Callable[..., nn.Module]) -> None:
    model = make_model()
    free = decoded(model, [[5], [6]], GREEDY).tokens
    decoding = Decoding(model, [[5], [6]], GREEDY)
    decoding.step()
    decoding.end(0, "stop")
    while decoding.live:
        decoding.step()
    assert decoding.tokens == [free[0][:1], free[1]]
    assert decoding.reasons == ["stop", "length"]


@pytest.mark.parametrize(("prompt", "numbers"), [([], ["one token", "none"]), ([1] * 200, ["96", "200", "95"])])
def test_prompt_without_room_is_refused_with_the_numbers(
    make_model: Callable[..., nn.Module], prompt: list[int], numbers: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        Decoding(make_model(), [[1], prompt], GREEDY)
    assert all(number in str(caught.value) for number in numbers)


def test_decoding_keeps_no_gradient_and_leaves_the_weights_trainable(make_model: Callable[..., nn.Module]) -> None:
    model = make_model()
    decoded(model, [[1, 2]], GREEDY)
    model(torch.tensor([[1, 2]])).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
