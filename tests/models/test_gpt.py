"""The decoder-only Transformer: sizes, packing, caching, dropout, compilation, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dougong.core.config import try_validate, validate
from dougong.core.errors import UsageError
from dougong.core.seed import sample_keys
from dougong.models.gpt import GPT, SMALL, VARIANTS, GPTConfig, example
from tests.nn.test_init import Operations

KINDS = sorted(kind for kind, values in SMALL.items() if values.get("head") != "classify")
NOISE = sample_keys(torch.arange(3), 0, "dropout", 1)


def small(kind: str, dtype: torch.dtype = torch.float64, **changes) -> GPT:
    model = validate(GPTConfig, SMALL[kind] | changes).build()
    model.init_weights(0)
    return model.to(dtype)


def tokens(rows: int, time: int = 24) -> Tensor:
    return torch.randint(0, 61, (rows, time), generator=torch.Generator().manual_seed(3))


def gap(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


@pytest.mark.parametrize("variant", ["gpt3-175b", "llama3.1-8b"])
def test_the_largest_models_are_built_on_meta_by_naming_shapes_alone(variant: str) -> None:
    with Operations() as done, torch.device("meta"):
        model = validate(GPTConfig, VARIANTS[variant]).build()
    assert done.names <= {"empty", "detach"}
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(("size", "millions"), [("12m", 12), ("25m", 25), ("42m", 42), ("85m", 85), ("300m", 300)])
def test_codex_sizes_count_parameters_without_embeddings(size: str, millions: int) -> None:
    config = validate(GPTConfig, VARIANTS[f"codex-{size}"])
    assert int(12 * config.dim**2 * config.num_layers / 1e6) == pytest.approx(millions, abs=2)
    assert (config.vocab_size, config.max_seq_len) == (50257 + 24, 4096)


def test_gpt3_alternates_dense_and_banded_attention() -> None:
    config = validate(GPTConfig, VARIANTS["gpt3-small"])
    assert [config.band_of(layer) for layer in range(4)] == [None, 256, None, 256]


def test_residual_projections_begin_smaller() -> None:
    model = validate(GPTConfig, {"vocab_size": 61, "num_layers": 8, "dim": 96}).build()
    model.init_weights(0)
    block = model.blocks[0]
    assert block.attention.output.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert block.feedforward.down.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert block.feedforward.up.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_documents_equal_separate_ones(kind: str) -> None:
    model, packed = small(kind), tokens(2)
    lengths = [[5, 1, 18], [11, 13, 0]]
    segments = torch.stack([torch.repeat_interleave(torch.tensor([7, 2, 9]), torch.tensor(row)) for row in lengths])
    together = model(packed, segments=segments)
    for row, counts in enumerate(lengths):
        for document, logits in zip(packed[row].split(counts), together[row].split(counts), strict=True):
            if len(document):
                assert gap(model(document[None])[0], logits) < 1e-10
    assert gap(model(packed), together) > 1e-4, "the comparison must notice attention across documents"


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_packed_documents_is_the_sum_of_the_separate_ones(kind: str) -> None:
    packed, separate, row = small(kind), small(kind), tokens(1)
    packed(row, segments=torch.arange(24)[None] // 8).square().sum().backward()
    for document in row.split(8, dim=1):
        separate(document).square().sum().backward()
    for one, other in zip(packed.parameters(), separate.parameters(), strict=True):
        expected = other.grad
        assert gap(one.grad, expected) < 1e-10 * (1 + expected.abs().max().item())


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_comes_later_changes_nothing_before(kind: str) -> None:
    model, text = small(kind), tokens(1)
    assert gap(model(text[:, :10]), model(text)[:, :10]) < 1e-12
    text[0, 4] += 1
    assert gap(model(text[:, :10]), model(tokens(1))[:, :10]) > 1e-4


def decode(model: GPT, text: Tensor, lengths: list[int], chunk: int) -> list[Tensor]:
    """Returns each row's logits, from a right-padded prompt of its length and then `chunk` tokens at a time."""
    cache, prompt = model.new_cache(len(text)), text[:, : max(lengths)].clone()
    for row, length in enumerate(lengths):
        prompt[row, length:] = 60
    first = model(prompt, cache=cache)
    cache.truncate(torch.tensor(lengths))
    found = [[first[row, :length]] for row, length in enumerate(lengths)]
    for _ in range((text.shape[1] - max(lengths)) // chunk):
        begins = cache.lengths.tolist()
        given = torch.stack([text[row, begin : begin + chunk] for row, begin in enumerate(begins)])
        for row, logits in enumerate(model(given, cache=cache)):
            found[row].append(logits)
    return [torch.cat(row) for row in found]


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("lengths", [[6, 6, 6], [6, 2, 5], [1, 6, 6]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_cached_decoding_equals_uncached(kind: str, lengths: list[int], chunk: int) -> None:
    model, text = small(kind), tokens(3)
    full = model(text)
    for row, logits in enumerate(decode(model, text, lengths, chunk)):
        assert len(logits) == lengths[row] + 18
        assert gap(logits, full[row, : len(logits)]) < 1e-10


@torch.no_grad()
def test_a_cache_that_keeps_padding_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dougong.nn.cache.KVCache.truncate", lambda self, lengths: None)
    model, text = small("gpt2"), tokens(3)
    cache = model.new_cache(3)
    model(torch.nn.functional.pad(text[:, :3], (0, 2), value=60), cache=cache)
    cache.truncate(torch.tensor([3, 3, 3]))
    assert gap(model(text[:, 3:4], cache=cache)[:, 0], model(text)[:, 3]) > 1e-4


@torch.no_grad()
def test_reordered_cache_goes_on_with_the_chosen_rows() -> None:
    model, text = small("llama"), tokens(3)
    cache = model.new_cache(3)
    model(text[:, :5], cache=cache)
    cache.reorder(torch.tensor([2, 0]))
    assert gap(model(text[[2, 0], 5:6], cache=cache)[:, 0], model(text)[[2, 0], 5]) < 1e-10


@pytest.mark.parametrize("kind", ["gpt2", "gpt3"])
def test_dropout_is_the_same_in_any_microbatch_and_when_recomputed(kind: str) -> None:
    model, text = small(kind), tokens(3)
    whole = model(text, noise=NOISE)
    single = torch.cat([model(text[i : i + 1], noise=NOISE[i : i + 1]) for i in range(3)])
    assert gap(whole, single) < 1e-10
    assert gap(whole, model(text)) > 1e-4
    expected = torch.autograd.grad(whole.square().sum(), list(model.parameters()))
    for block in model.blocks:
        block.forward = _recomputed(block.forward)
    found = torch.autograd.grad(model(text, noise=NOISE).square().sum(), list(model.parameters()))
    assert max(gap(one, other) for one, other in zip(expected, found, strict=True)) < 1e-10


def _recomputed(forward):
    return lambda *inputs: checkpoint(forward, *inputs, use_reentrant=False)


def test_each_layer_drops_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(
        "dougong.models.gpt.network.Block.forward", lambda self, x, r, m, c, noise: seen.append(noise) or x
    )
    small("gpt2")(tokens(3), noise=NOISE)
    assert not torch.equal(seen[0], seen[1])


def test_head_of_features_is_forward() -> None:
    for kind in KINDS:
        model = small(kind)
        assert torch.equal(model(tokens(2)), model.head(model.features(tokens(2))))
        assert (model.head_weight is model.token_embedding.weight) == model.config.tie_embeddings


@torch.no_grad()
def test_a_class_is_read_at_the_last_token_of_each_text() -> None:
    model, lengths = small("classify"), torch.tensor([24, 7, 1])
    text = tokens(3)
    logits = model(text, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        assert gap(logits[row], model(text[row : row + 1, :length])[0]) < 1e-12
    assert gap(logits[1:], model(text)[1:]) > 1e-4
    padded = small("classify", pad_id=60)
    text = torch.where(torch.arange(24) < lengths[:, None], text % 60, 60)
    assert gap(padded(text), padded(text, lengths=lengths)) == 0
    text[1, 3] = 60  # padding inside a text ends none
    assert gap(padded(text), padded(text, lengths=lengths)) == 0
    assert gap(model(text), padded(text)) > 1e-4


def test_a_classifier_does_not_go_on_with_a_text() -> None:
    assert not hasattr(small("classify"), "new_cache")
    assert hasattr(small("gpt2"), "new_cache")
    assert [validate(GPTConfig, SMALL[kind]).takes("num_classes") for kind in ("classify", "gpt2")] == [True, False]


def test_precision_of_autocast_reaches_the_products() -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        for kind in KINDS:
            assert gap(small(kind, torch.float32)(tokens(1)).float(), small(kind)(tokens(1))) < 0.05


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dim": 30}, "num_heads must divide dim, but 30 % 4 is 2. Try 3 or 5, or set head_dim."),
        ({"num_kv_heads": 3}, "num_kv_heads must divide num_heads, but 4 % 3 is not 0."),
        ({"position": "rotary", "head_dim": 5}, "head_dim must be even for rotary positions, but is 5."),
        ({"rope_theta": 1e6}, "rope_theta has no effect while position is learned."),
        ({"rope_scaling": {"name": "linear", "factor": 2.0}}, "rope_scaling has no effect while position is learned."),
        ({"attention_pattern": ["banded"]}, "band is required by the banded layers of attention_pattern, but absent."),
        ({"band": 4}, "band has no effect while attention_pattern has no banded layer."),
        ({"attention_pattern": []}, "attention_pattern must"),
        ({"num_classes": 3}, "num_classes has no effect while head is lm. Remove it, or set head: classify."),
        ({"pad_id": 3}, "pad_id has no effect while head is lm."),
        ({"head": "classify", "pad_id": 61}, "pad_id must be below vocab_size = 61, but is 61."),
        ({"head": "classify", "tie_embeddings": False}, "tie_embeddings must be true while head is classify"),
        ({"position": "rotary", "rope_scaling": {"name": "yarn"}}, "rope_scaling"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_impossible_configs_are_refused_in_a_sentence(changes: dict, sentence: str) -> None:
    config, complaints = try_validate(GPTConfig, SMALL["gpt2"] | changes)
    assert config is None
    assert any(complaint.text.startswith(sentence) for complaint in complaints), complaints


def test_impossible_calls_are_refused_in_a_sentence() -> None:
    model = small("gpt2")
    with pytest.raises(UsageError, match=r"at most model.max_seq_len = 24 tokens, but has 25"):
        model(tokens(1, 25))
    cache = model.new_cache(1, 30)
    model(tokens(1, 20), cache=cache)
    with pytest.raises(UsageError, match="but has 26"):
        model(tokens(1, 6), cache=cache)
    with pytest.raises(UsageError, match="segments must be absent"):
        model(tokens(1, 2), segments=tokens(1, 2), cache=model.new_cache(1))
    with pytest.raises(UsageError, match=r"model.vocab_size must be known"):
        GPTConfig().build()
    with pytest.raises(UsageError, match=r"model.num_classes must be known"):
        GPTConfig(vocab_size=9, head="classify").build()


_COMPILED = """
import copy, sys, torch, torch._dynamo
from dougong.core.config import validate
from dougong.models import gpt

backend, kind = sys.argv[1:]
eager = validate(gpt.GPTConfig, gpt.SMALL[kind] | {"num_layers": 4}).build()
eager.init_weights(0)
compiled = copy.deepcopy(eager)
for block in compiled.blocks:
    block.compile(fullgraph=True, backend=backend)
inputs = gpt.example(eager.config, 2) | {"noise": torch.arange(2, dtype=torch.int32)}
for model in (eager, compiled):
    model.logits = model(**inputs)
    (model.logits.square().sum() / 1000).backward()
torch.testing.assert_close(eager.logits, compiled.logits, rtol=0, atol=1e-5)
for one, other in zip(eager.parameters(), compiled.parameters(), strict=True):
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)
assert not torch.equal(compiled.logits, eager(inputs["tokens"])), "dropout must be on"
print("graphs", torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


@pytest.mark.parametrize(
    ("kind", "backend", "graphs"),
    [
        ("gpt3", "aot_eager", 2),
        ("gpt2", "inductor", 1),
        pytest.param("gpt3", "inductor", 2, marks=pytest.mark.slow),
    ],
)
def test_compiled_block_equals_eager_and_serves_all_layers(kind: str, backend: str, graphs: int) -> None:
    # In a process of its own: the checks of shapes that tests install do not survive compilation.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-c", _COMPILED, backend, kind]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=230, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"graphs {graphs}\n" in done.stdout


def test_example_rows_differ() -> None:
    rows = example(validate(GPTConfig, SMALL["gpt2"]), 4)["tokens"]
    assert len({tuple(row) for row in rows.tolist()}) == 4
