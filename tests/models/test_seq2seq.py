"""Sequence to sequence: sizes, padding, caching, dropout, the recurrent one beside torch's modules, what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from dougong.core.config import try_validate, validate
from dougong.core.errors import UsageError
from dougong.core.seed import sample_keys
from dougong.models.seq2seq import SMALL, VARIANTS, Seq2Seq, Seq2SeqConfig, example
from dougong.train.blocks import prepared_blocks
from tests.nn.test_init import Operations

KINDS = sorted(SMALL)
RECURRENT = [kind for kind in KINDS if SMALL[kind].get("kind") == "recurrent"]
OF_ATTENTION = [kind for kind in KINDS if kind not in RECURRENT]
NOISE = sample_keys(torch.arange(3), 0, "dropout", 1)
LENGTHS = torch.tensor([9, 2, 6])
every_kind = pytest.mark.parametrize("kind", KINDS)


def small(kind: str, **changes) -> Seq2Seq:
    model = validate(Seq2SeqConfig, SMALL[kind] | changes).build()
    model.init_weights(0)
    for name, parameter in model.named_parameters():
        if "bias" in name:  # which begin at zero, where they would hide
            nn.init.normal_(parameter, 0.0, 0.3, generator=torch.Generator().manual_seed(4))
    return model.double()


def drawn(time: int = 9, rows: int = 3, vocab: int = 53) -> Tensor:
    return torch.randint(0, vocab, (rows, time), generator=torch.Generator().manual_seed(3 + time))


def gap(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


# Sizes


def test_transformer_base_is_counted_as_one_matrix_and_its_layers() -> None:
    dim, hidden, vocab = 512, 2048, 37000
    attention, network, norm = 4 * (dim * dim + dim), 2 * dim * hidden + hidden + dim, 2 * dim
    encoder, decoder = attention + network + 2 * norm, 2 * attention + network + 3 * norm
    with torch.device("meta"):
        model = validate(Seq2SeqConfig, {"vocab_size": vocab, **VARIANTS["transformer-base"]}).build()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters == vocab * dim + 6 * (encoder + decoder) == 63_082_496


@pytest.mark.parametrize("variant", VARIANTS)
def test_models_are_built_on_meta_by_naming_shapes_alone(variant: str) -> None:
    with Operations() as done, torch.device("meta"):
        validate(Seq2SeqConfig, {"vocab_size": 100, **VARIANTS[variant]}).build()
    assert done.names <= {"empty", "detach"}


@every_kind
def test_one_vocabulary_is_one_embedding(kind: str) -> None:
    joint, separate = small(kind, source_vocab_size=None), small(kind, source_vocab_size=61)
    assert joint.source_embedding is None
    added = sum(p.numel() for p in separate.parameters()) - sum(p.numel() for p in joint.parameters())
    assert added == 61 * joint.config.dim
    changed = joint(drawn(), drawn(vocab=61))
    with torch.no_grad():
        joint.token_embedding.weight[drawn(vocab=61)[0, 0], 0] += 1.0
    assert gap(joint(drawn(), drawn(vocab=61)), changed) > 1e-6


def test_initial_values_are_those_of_the_table() -> None:
    model = validate(Seq2SeqConfig, {"vocab_size": 999, "dim": 96, "num_layers": 1}).build()
    model.init_weights(0)
    block = model.decoder.blocks[0]
    assert model.token_embedding.weight.std().item() == pytest.approx(0.5 * 96**-0.5, rel=0.03)
    assert block.feedforward.up.weight.abs().max().item() == pytest.approx(math.sqrt(6 / (96 + 384)), rel=0.01)
    model = validate(Seq2SeqConfig, {"vocab_size": 99, "dim": 96, "num_layers": 1, "kind": "recurrent"}).build()
    model.init_weights(0)
    assert model.decoder.cells[0].weight_hh.abs().max().item() == pytest.approx(96**-0.5, rel=0.01)
    assert not model.decoder.cells[0].bias_hh.any()


@pytest.mark.parametrize("norm_first", [False, True])
@torch.no_grad()
def test_an_untrained_transformer_does_as_well_as_chance(norm_first: bool) -> None:
    shape = {"vocab_size": 500, "dim": 128, "num_heads": 4, "num_layers": 2, "max_seq_len": 32}
    model = validate(Seq2SeqConfig, shape | {"norm_first": norm_first}).build()
    model.init_weights(0)
    tokens, sources, targets = (drawn(32, 8, 500) * factor % 500 for factor in (1, 3, 7))

    def excess() -> float:
        return nn.functional.cross_entropy(model(tokens, sources).flatten(0, 1), targets.flatten()).item() / math.log(
            500
        )

    assert excess() == pytest.approx(1.0, abs=0.05)
    model.token_embedding.weight *= 2.0  # the usual width
    assert excess() > 1.05


# Padding


@every_kind
@torch.no_grad()
def test_padding_of_sources_changes_nothing(kind: str) -> None:
    model, tokens, sources = small(kind), drawn(), drawn(9)
    found = model(tokens, sources, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = model(tokens[row : row + 1], sources[row : row + 1, :length])
        assert gap(alone[0], found[row]) < 1e-12
    other = torch.where(torch.arange(9) < LENGTHS[:, None], sources, 7)
    assert gap(model(tokens, other, LENGTHS), found) < 1e-12
    assert gap(model(tokens, other), model(tokens, sources)) > 1e-4, "the comparison must notice padding that is seen"


@every_kind
def test_an_empty_source_has_finite_logits_and_gradients(kind: str) -> None:
    model = small(kind)
    model(drawn(), drawn(9), torch.tensor([0, 3, 9])).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@every_kind
@torch.no_grad()
def test_what_comes_later_changes_nothing_before(kind: str) -> None:
    model, tokens, sources = small(kind), drawn(), drawn(9)
    found, other = model(tokens, sources, LENGTHS), tokens.clone()
    other[:, 5] += 1
    moved = model(other, sources, LENGTHS) - found
    assert moved[:, :5].abs().max() < 1e-12
    assert moved[:, 5:].abs().max() > 1e-4


# Caching


def begun(model: Seq2Seq, tokens: Tensor, sources: Tensor, attention: bool = False):
    """Returns the memory, and a cache over it that has read four tokens, and what they gave."""
    memory = model.encode(sources, LENGTHS)
    cache = model.new_cache(memory, 9, attention)
    found = [model.features(piece, memory, cache) for piece in tokens[:, :4].split((2, 1, 1), dim=1)]
    return memory, cache, model.head(torch.cat(found, dim=1))


@every_kind
@torch.no_grad()
def test_cached_decoding_equals_uncached_for_the_rows_that_are_chosen(kind: str) -> None:
    model, tokens, sources = small(kind), drawn(), drawn(9)
    full = model(tokens, sources, LENGTHS)
    memory, cache, found = begun(model, tokens, sources)
    assert cache.length == 4
    assert gap(found, full[:, :4]) < 1e-12
    for index in ([1, 2, 0], [2, 2, 0, 1], [3, 0]):
        chosen = torch.tensor(index)
        cache.reorder(chosen)
        memory, tokens, full = memory.select(chosen), tokens[chosen], full[chosen]
        place = cache.length
        step = model.head(model.features(tokens[:, place : place + 1], memory, cache))[:, 0]
        assert gap(step, full[:, place]) < 1e-12
    wrong = model.head(model.features(tokens[:, 7:8].flip(0), memory, cache))[:, 0]
    assert gap(wrong, full[:, 7]) > 1e-4, "the comparison must notice rows that changed places"


@every_kind
@torch.no_grad()
def test_cached_attention_is_where_the_last_token_looked(kind: str) -> None:
    model, tokens, sources = small(kind), drawn(), drawn(9)
    memory, cache, _ = begun(model, tokens, sources, attention=True)
    assert gap(cache.attention.sum(1), torch.ones(3)) < 1e-12
    assert not cache.attention[1, 2:].any()
    before = cache.attention
    cache.reorder(torch.tensor([2, 0]))
    assert torch.equal(cache.attention, before[[2, 0]])
    model.features(tokens[[2, 0], 4:5], memory.select(torch.tensor([2, 0])), cache)
    assert gap(cache.attention, before[[2, 0]]) > 1e-6
    assert begun(model, tokens, sources)[1].attention is None


# The recurrent one beside torch's modules


def encoded(model: Seq2Seq, source: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what torch's recurrences give of one source without padding, and the last state of the last of them."""
    config = model.config
    table = model.token_embedding if model.source_embedding is None else model.source_embedding
    hidden, kind = table.weight[source][None], nn.LSTM if config.cell == "lstm" else nn.GRU
    for layer in model.encoder.layers:
        module = kind(hidden.shape[2], config.width_inside, batch_first=True, bidirectional=config.bidirectional)
        hidden, last = functional_call(module, dict(layer.named_parameters()), (hidden,))
        last = last[0] if config.cell == "lstm" else last
    return hidden[0], last[-1, 0]


def moved(model: Seq2Seq, given: Tensor, states: list) -> Tensor:
    """Takes one step of torch's cells, whose first reads all that is fed as one vector."""
    lstm = model.config.cell == "lstm"
    for number, cell in enumerate(model.decoder.cells):
        weights = dict(cell.named_parameters())
        if number == 0 and model.decoder.fed is not None:
            weights["weight_ih"] = torch.cat((weights["weight_ih"], model.decoder.fed.weight), dim=1)
        module = (nn.LSTMCell if lstm else nn.GRUCell)(len(given), model.config.width_inside)
        result = functional_call(module, weights, (given, states[number] if lstm else states[number][0]))
        states[number] = result if lstm else (result,)
        given = states[number][0]
    return given


def looked(model: Seq2Seq, query: Tensor, memory: Tensor) -> Tensor:
    """Returns the context of one query, place by place, as the papers have it."""
    a = model.decoder.alignment
    score = {
        "bahdanau": lambda m: a.energy[0] @ torch.tanh(a.query.weight @ query + a.query.bias + a.memory.weight @ m),
        "luong_concat": lambda m: a.energy[0] @ torch.tanh(a.query.weight @ query + a.query.bias + a.memory.weight @ m),
        "luong_dot": lambda m: query @ m,
        "luong_general": lambda m: query @ a.memory.weight @ m,
    }[model.config.attention]
    return torch.stack([score(m) for m in memory]).softmax(0) @ memory


def by_torch(model: Seq2Seq, tokens: Tensor, source: Tensor) -> Tensor:
    """Returns the logits of one row."""
    config, decoder = model.config, model.decoder
    memory, last = encoded(model, source)
    parts = torch.tanh(model.encoder.bridge.weight @ last + model.encoder.bridge.bias).split(config.width_inside)
    width = len(parts) // config.decoder_layers
    states = [parts[i * width : (i + 1) * width] for i in range(config.decoder_layers)]
    fed, features = torch.zeros(config.width_of_readout, dtype=torch.float64), []
    for word in model.token_embedding.weight[tokens]:
        if config.attention == "bahdanau":
            seen = looked(model, states[-1][0], memory)
            top = moved(model, torch.cat((word, seen)), states)
            read = functional_call(decoder.readout, {}, (torch.cat((top, seen, word)),))
            features.append(torch.stack([pair.max() for pair in read.split(2)]))
            continue
        top = moved(model, torch.cat((word, fed)) if config.input_feeding else word, states)
        fed = torch.tanh(decoder.readout.weight @ torch.cat((top, looked(model, top, memory))) + decoder.readout_bias)
        features.append(fed)
    bias = 0.0 if model.head_bias is None else model.head_bias
    return torch.stack(features) @ model.head_weight.T + bias


CASES = {kind: {} for kind in RECURRENT} | {
    "bahdanau": {"num_decoder_layers": 2},
    "luong-concat": {"num_layers": 2, "input_feeding": True},
}


@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_model_is_a_loop_of_torch_modules_in_value_and_gradient(kind: str) -> None:
    model, tokens, sources = small(kind, **CASES[kind]), drawn(5), drawn(9)
    model.decoder.readout_bias = 0.0 if model.decoder.readout.bias is None else model.decoder.readout.bias
    found = model(tokens, sources, LENGTHS)
    expected = torch.stack([by_torch(model, tokens[i], sources[i, : LENGTHS[i]]) for i in range(3)])
    assert gap(found, expected) < 1e-12
    pair = [torch.autograd.grad(logits.sin().sum(), list(model.parameters())) for logits in (found, expected)]
    for (name, _), ours, theirs in zip(model.named_parameters(), *pair, strict=True):
        assert gap(ours, theirs) < 1e-10, name
        assert theirs.abs().max() > 1e-8, name
    with torch.no_grad():
        model.decoder.cells[-1].weight_hh[0, 0] += 0.1
    assert gap(model(tokens, sources, LENGTHS), expected) > 1e-8, "a different weight must be noticed"


# Dropout


@every_kind
def test_dropout_is_the_same_in_any_microbatch_and_when_recomputed(kind: str) -> None:
    changes = {"dropout": 0.2} | ({} if kind in RECURRENT else {"attention_dropout": 0.2})
    model, tokens, sources = small(kind, num_layers=2, **changes), drawn(), drawn(9)
    whole = model(tokens, sources, LENGTHS, NOISE)
    rows = [slice(row, row + 1) for row in range(3)]
    single = torch.cat([model(tokens[row], sources[row], LENGTHS[row], NOISE[row]) for row in rows])
    assert gap(whole, single) < 1e-12
    assert gap(whole, model(tokens, sources, LENGTHS)) > 1e-3
    if kind in RECURRENT:
        assert not model.blocks
        return
    expected = torch.autograd.grad(whole.square().sum(), list(model.parameters()))
    with prepared_blocks(model, compiled=False, recompute=True):
        again = model(tokens, sources, LENGTHS, NOISE)
    found = torch.autograd.grad(again.square().sum(), list(model.parameters()))
    assert max(gap(one, other) for one, other in zip(expected, found, strict=True)) < 1e-10


@every_kind
def test_each_dropout_draws_for_itself(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple] = []

    def note(hidden: Tensor, probability: float, noise: Tensor, place: int) -> Tensor:
        seen.append((*noise.tolist(), place))
        return hidden

    for module in ("dougong.models.seq2seq.network", "dougong.models.seq2seq.recurrent"):
        monkeypatch.setattr(f"{module}.dropout", note)
    for module in ("decoder", "transformer"):
        monkeypatch.setattr(f"dougong.nn.{module}.dropout", note)
    changes = {"num_layers": 2, "num_decoder_layers": 2, "dropout": 0.2}
    model = small(kind, **changes, **({} if kind in RECURRENT else {"attention_dropout": 0.2}))
    model(drawn(), drawn(9), LENGTHS, NOISE)
    # Two embeddings; then 3 draws a layer and 5, or one a layer, one between two layers at each of 9 steps, and one.
    assert len(seen) == 2 + (2 + 9 + 1 if kind in RECURRENT else 2 * (3 + 5))
    assert len(set(seen)) == len(seen)


# What is offered and refused


@every_kind
def test_head_of_features_is_forward(kind: str) -> None:
    model, tokens, sources = small(kind), drawn(), drawn(9)
    features = model.features(tokens, model.encode(sources))
    assert torch.equal(model(tokens, sources), model.head(features))
    bias = 0.0 if model.head_bias is None else model.head_bias
    assert gap(model.head(features), features @ model.head_weight.T + bias) < 1e-12
    assert (model.head_weight is model.token_embedding.weight) == model.config.tie_embeddings
    assert (model.head_bias is not None) == model.config.output_bias


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        ("transformer", {"num_heads": 3}, "num_heads must divide dim, but 16 % 3 is 1."),
        ("transformer", {"start_id": 61}, "start_id must be below vocab_size = 61, but is 61."),
        ("transformer", {"cell": "gru"}, "cell has no effect while kind is transformer."),
        ("transformer", {"bidirectional": False}, "bidirectional has no effect while kind is transformer."),
        ("transformer", {"attention": "bahdanau"}, "attention has no effect while kind is transformer."),
        ("transformer", {"input_feeding": True}, "input_feeding has no effect while kind is transformer."),
        ("transformer", {"readout_dim": 16}, "readout_dim has no effect while kind is transformer."),
        ("bahdanau", {"num_heads": 2}, "num_heads has no effect while kind is recurrent."),
        ("bahdanau", {"activation": "silu"}, "activation has no effect while kind is recurrent."),
        ("bahdanau", {"norm_first": True}, "norm_first has no effect while kind is recurrent."),
        ("bahdanau", {"norm_eps": 1e-6}, "norm_eps has no effect while kind is recurrent."),
        ("bahdanau", {"position": "learned"}, "position has no effect while kind is recurrent."),
        ("bahdanau", {"scale_embeddings": False}, "scale_embeddings has no effect while kind is recurrent."),
        ("bahdanau", {"attention_dropout": 0.1}, "attention_dropout has no effect while kind is recurrent."),
        ("bahdanau", {"input_feeding": True}, "input_feeding has no effect while attention is bahdanau."),
        ("bahdanau", {"readout_dim": 20}, "readout_dim must be dim = 16 while tie_embeddings is true, but is 20."),
        ("luong-dot", {"bidirectional": True}, "attention luong_dot needs a source as wide as the decoder's state"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_impossible_configs_are_refused_in_a_sentence(kind: str, changes: dict, sentence: str) -> None:
    config, complaints = try_validate(Seq2SeqConfig, SMALL[kind] | changes)
    assert config is None
    assert any(complaint.text.startswith(sentence) for complaint in complaints), complaints


@pytest.mark.parametrize("kind", ["transformer", "bahdanau"])
def test_impossible_calls_are_refused_in_a_sentence(kind: str) -> None:
    model = small(kind)
    for tokens, sources in ((drawn(10), drawn(9)), (drawn(9), drawn(10))):
        with pytest.raises(UsageError, match=r"at most model.max_seq_len = 9 tokens, but has 10"):
            model(tokens, sources)
    memory = model.encode(drawn(9))
    cache = model.new_cache(memory, 3)
    model.features(drawn(3), memory, cache)
    with pytest.raises(UsageError, match="room for 4 tokens, but has 3"):
        model.features(drawn(1), memory, cache)
    with pytest.raises(UsageError, match=r"model.vocab_size must be known"):
        Seq2SeqConfig().build()


def test_example_rows_differ_and_begin_with_the_start() -> None:
    inputs = example(validate(Seq2SeqConfig, SMALL["transformer"]), 4)
    assert len({tuple(row) for row in inputs["sources"].tolist()}) == 4
    assert (inputs["tokens"][:, 0] == 3).all()
    assert len(set(inputs["source_lengths"].tolist())) > 1
