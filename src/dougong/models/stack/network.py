"""The network of a stack: its stages one after another, with lengths and masks that follow from their types.

What its config says, see `__init__.py`; how each stage is made of blocks, `leaves.py`. Knows no task and no data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from dougong.core import seed as seeds
from dougong.core.errors import UsageError
from dougong.models.stack import Image, StackConfig, Tokens, begin, heads, layers, nesting
from dougong.models.stack.documents import joined, separated
from dougong.models.stack.leaves import LEAVES, Seen, bound_of, std_of
from dougong.models.stack.reading import TokenCache, at_places
from dougong.models.stack.stage import Check, Here, Stage
from dougong.models.stack.types import Signal
from dougong.nn.init import Linear, draw_normal, draw_uniform
from dougong.nn.lengths import Window
from dougong.nn.mask import blanked, mask_of


class Maker:
    """Makes modules in the order of the stages, each for the type that it is given.

    Attributes:
        windows: All ways in which time is shortened on the way to a stage.
    """

    def __init__(self, check: Check):
        self.check, self.windows = check, set[tuple[Window, ...]]()

    def chain(self, path: str, stages: Sequence[Stage], given: Signal) -> Chain:
        """Returns the modules of a list of stages."""
        chain = Chain(stages)
        for number, stage in enumerate(stages):
            here = Here(self.check, f"{path}[{number}]", stage)
            chain.add_module(f"{number}_{stage.word}", self._module(stage, given, here))
            before, given = given, stage.out(given, here).given_by(here.label)
            chain.windows.append(given.windows[len(before.windows) :])
            self.windows.add(given.windows)
        chain.given = given
        return chain

    def _module(self, stage: Stage, given: Signal, here: Here) -> nn.Module:
        if isinstance(stage, nesting.Residual):
            return Residual(self.chain(here.path, stage.stages, given), self.chain(here.path, stage.shortcut, given))
        if isinstance(stage, nesting.Parallel):
            chains = [self.chain(here.path, branch, given) for branch in stage.branches]
            return Parallel(chains, stage.join, channel=1 if given.form == "image" else -1)
        if isinstance(stage, nesting.Repeat):
            blocks = []
            for _ in range(stage.times):
                blocks.append(self.chain(here.path, stage.stages, given))
                given = blocks[-1].given
            return Repeat(blocks)
        return LEAVES[type(stage)].make(stage, given, self.check.vocab_size or 1)


class Chain(nn.Module):
    """Stages one after another.

    Attributes:
        stages: Their configs.
        windows: How each shortens time.
        given: The type of what the last one gives.
    """

    given: Signal

    def __init__(self, stages: Sequence[Stage]):
        super().__init__()
        self.stages, self.windows = list(stages), list[tuple[Window, ...]]()

    def forward(
        self,
        hidden: Shaped[Tensor, "batch ..."],
        lengths: Int[Tensor, " batch"] | None = None,
        noise: Int[Tensor, " batch"] | None = None,
    ) -> Shaped[Tensor, "batch ..."]:
        """Returns what the last stage gives.

        Args:
            hidden: What the first stage takes.
            lengths: How many places of each row hold an item; None: all.
            noise: One key per row, from which dropout draws; None switches dropout off.
        """
        for number, (stage, module, windows) in enumerate(zip(self.stages, self.children(), self.windows, strict=True)):
            own = None if noise is None else seeds.fold(noise, number)
            if isinstance(module, (Residual, Parallel, Repeat)):
                hidden = module(hidden, lengths, own)
            else:
                mask = None if lengths is None or hidden.ndim > 3 else mask_of(lengths, hidden.shape[1])
                hidden = LEAVES[type(stage)].run(module, stage, hidden, Seen(mask, own))
            lengths = shorter(lengths, windows)
        return hidden

    def after(self, lengths: Int[Tensor, " batch"] | None) -> Int[Tensor, " batch"] | None:
        """Returns how many places of each row are left by all stages together."""
        for windows in self.windows:
            lengths = shorter(lengths, windows)
        return lengths


class Residual(nn.Module):
    """The sum of what its stages give and of what goes around them."""

    def __init__(self, inside: Chain, shortcut: Chain):
        super().__init__()
        self.inside, self.shortcut = inside, shortcut

    def forward(
        self,
        hidden: Float[Tensor, "batch ..."],
        lengths: Int[Tensor, " batch"] | None = None,
        noise: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch ..."]:
        """Returns the sum; arguments are those of `Chain.forward`."""
        around = None if noise is None else seeds.fold(noise, -1)
        return self.inside(hidden, lengths, noise) + self.shortcut(hidden, lengths, around)


class Parallel(nn.ModuleList):
    """Several chains over the same input, whose outputs are added or stand side by side."""

    def __init__(self, chains: Iterable[Chain], join: str, channel: int):
        super().__init__(chains)
        self.join, self.channel = join, channel

    def forward(
        self,
        hidden: Shaped[Tensor, "batch ..."],
        lengths: Int[Tensor, " batch"] | None = None,
        noise: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch ..."]:
        """Returns the joined outputs; arguments are those of `Chain.forward`."""
        found = [
            chain(hidden, lengths, None if noise is None else seeds.fold(noise, number))
            for number, chain in enumerate(self)
        ]
        if self.join == "add":
            return torch.stack(found).sum(dim=0)
        return torch.cat(found, dim=-1 if found[0].ndim == 2 else self.channel)


class Repeat(nn.ModuleList):
    """The same chain several times over, each with weights of its own."""

    def forward(
        self,
        hidden: Shaped[Tensor, "batch ..."],
        lengths: Int[Tensor, " batch"] | None = None,
        noise: Int[Tensor, " batch"] | None = None,
    ) -> Shaped[Tensor, "batch ..."]:
        """Returns what the last block gives; arguments are those of `Chain.forward`."""
        for number, block in enumerate(self):
            assert isinstance(block, Chain)
            hidden = block(hidden, lengths, None if noise is None else seeds.fold(noise, number))
            lengths = block.after(lengths)
        return hidden


class Stack(nn.Module):
    """The model: all stages before the head, and the head.

    Attributes:
        config: What it was built from.
        stages: All stages but the head; a parameter's name says where it stands: `stages.3_conv.weight`.
        answer: The head's linear map; None where its weight is the embedding's.
        SPLIT: How each parameter is split over a tensor-parallel axis: as in GPT, where it has such parameters; the
            others are whole everywhere.
    """

    SPLIT: ClassVar[dict[str, str]] = {
        "*_embed.weight": "row",
        "*.qkv.*": "column",
        "*attention.output.weight": "row",
        "*attention.output.bias": "none",
        "*feedforward.gate.*": "column",
        "*feedforward.up.*": "column",
        "*feedforward.down.weight": "row",
        "*feedforward.down.bias": "none",
        "*_norm.*": "none",
        **{f"*_{word}.*": "none" for word in ("position", "patch", "project", "conv", "subsample", "mixture")},
        **{f"*_{word}.*": "none" for word in ("rnn", "gru", "lstm")},
        "answer.*": "column",
    }

    def __init__(self, config: StackConfig):
        super().__init__()
        check, given = begin(config)
        if isinstance(config.input, Tokens) and config.vocab_size is None:
            raise UsageError("model.vocab_size must be known to build the model, but is absent. Set it.")
        self.config, self.head_stage = config, config.stages[-1]
        maker = Maker(check)
        self.stages = maker.chain("stages", config.stages[:-1], given)
        self.answer = self._answer(check, self.stages.given)
        self._shortest = max((_needed(windows) for windows in maker.windows), default=1)

    def _answer(self, check: Check, given: Signal) -> Linear | None:
        stage, width = self.head_stage, given.channel
        assert width is not None
        if isinstance(stage, heads.NextToken):
            return None if stage.tie_embeddings else Linear(width, check.vocab_size or 1, bias=False)
        outputs = stage.out(given, Here(check, "stages", stage)).sizes[-1]
        if outputs is None:
            raise UsageError("model.num_classes must be known to build the model, but is absent. Set it.")
        return Linear(width, outputs, bias=getattr(stage, "bias", True))

    @property
    def blocks(self) -> nn.ModuleList:
        """The repeated blocks, from the first to the last; compilation and recomputation are applied to its members."""
        repeats = [module for module in self.stages.children() if isinstance(module, Repeat)]
        return nn.ModuleList(block for repeat in repeats for block in repeat)

    def init_weights(self, seed: int) -> None:
        """Fills every parameter and buffer.

        | parameter | value |
        |---|---|
        | bias (also of a recurrence) | 0 |
        | weight of a norm; running variance | 1 |
        | running mean | 0 |
        | weight of a recurrence | uniform within `1 / sqrt(dim)` |
        | weight of a convolution, patches | normal, std `sqrt(2 / fan_in)` (He et al. 2015, eq. 10) |
        | linear maps | normal, std `1 / sqrt(fan_in)`; the last of each branch of a Transformer block divided by \
          `sqrt(2 blocks)` |
        | embedding | normal, std `embed.std`: 1, or 0.02 where the head is tied to it |
        | learned positions, head next_token | normal, std 0.02 |
        | other heads, whose features nothing may have normalised | normal, std `0.1 / sqrt(fan_in)` |
        """
        blocks = sum(name.endswith(".attention_norm") for name, _ in self.named_modules())
        for path, module in self.named_modules():
            for key, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                name, bound = f"{path}.{key}", bound_of(module)
                if key.startswith("bias") or key == "running_mean":
                    nn.init.zeros_(tensor)
                elif path.endswith("_norm") or key == "running_variance":
                    nn.init.ones_(tensor)
                elif bound is not None:
                    draw_uniform(tensor, bound, seed, name)
                else:
                    draw_normal(tensor, self._std(path, name, tensor, blocks), seed, name)

    def _std(self, path: str, name: str, tensor: Tensor, blocks: int) -> float:
        if path == "answer" and not isinstance(self.head_stage, heads.NextToken):
            return 0.1 / math.sqrt(tensor.shape[-1])
        if path == "answer" or path.endswith("_position"):
            return 0.02
        if path.endswith("_embed"):
            stage = self._stage_at(path)
            assert isinstance(stage, layers.Embed)
            return stage.std or (0.02 if self.answer is None else 1.0)
        return std_of(name, tensor, blocks)

    def _stage_at(self, path: str) -> Stage:
        """Returns the config of the stage whose module has a name."""
        chain = self.get_submodule(path.rpartition(".")[0])
        assert isinstance(chain, Chain)
        return chain.stages[int(path.rpartition(".")[2].partition("_")[0])]

    def forward(
        self,
        inputs: Shaped[Tensor, "batch ..."],
        lengths: Int[Tensor, " batch"] | None = None,
        noise: Int[Tensor, " batch"] | None = None,
        segments: Int[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch ..."]:
        """Returns the head's answer: for each row, or for each place that is left, zero where there is padding.

        Arguments and errors are those of `features`.
        """
        features = self.features(inputs, segments, noise, lengths)
        answer = self.head(features)
        left = None if lengths is None else self.output_lengths(lengths)
        return answer if left is None or answer.ndim == 2 else blanked(answer, mask_of(left, answer.shape[1]))

    def features(
        self,
        tokens: Shaped[Tensor, "batch ..."],
        segments: Int[Tensor, "batch time"] | None = None,
        noise: Int[Tensor, " batch"] | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
        cache: TokenCache | None = None,
    ) -> Float[Tensor, "batch ..."]:
        """Returns what the head reads; zero where there is padding.

        Args:
            tokens: What the model takes: tokens, features of sequences, or images.
            segments: Each token's document: no stage sees from one into another. A document's tokens stand together.
                Each is computed as a row of its own, so it costs as many rows of the longest as there are documents.
            noise: One key per row, from which dropout draws; None switches dropout off.
            lengths: How many places of each row hold an item, the first ones; None: all.
            cache: What was read before, from `new_cache`; the tokens continue it, and are added to it.

        Raises:
            UsageError: The input is longer than `max_seq_len`, or an image of another size, or segments come with
                lengths or with a head that has no place for each token.
        """
        if segments is not None:
            if lengths is not None or not isinstance(self.head_stage, heads.NextToken | heads.Tag):
                raise UsageError(
                    "segments must come without lengths, to a head of one place per token. Leave them out."
                )
            parts = separated(tokens, segments, noise)
            return joined(self.features(parts.rows, None, parts.noise, parts.lengths), parts)
        if cache is not None:
            whole, places = cache.read(tokens)
            return at_places(self.features(whole, noise=noise), places)  # causal: what stands behind is not seen
        self._check_input(tokens)
        if tokens.is_floating_point():
            tokens = tokens.to(self.head_weight.dtype)
        padded, lengths = self._padded(tokens, lengths)
        hidden = self.stages(padded, lengths, noise)
        if lengths is None or hidden.ndim == 2:
            return hidden
        left = self.stages.after(lengths)
        assert left is not None
        wanted = int(self.output_lengths(torch.tensor(tokens.shape[1])))
        return blanked(hidden, mask_of(left, hidden.shape[1]))[:, : max(1, wanted)]

    def head(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch outputs"]:
        """Returns the answer of features."""
        return F.linear(features, self.head_weight) if self.answer is None else self.answer(features)

    @property
    def head_weight(self) -> Float[Tensor, "outputs dim"]:
        """The weight of the head."""
        if self.answer is not None:
            return self.answer.weight
        return next(module.weight for name, module in self.named_modules() if name.endswith("_embed"))

    def output_lengths(self, lengths: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """Returns how many places of each row are left for the head: what a CTC loss wants to know."""
        return self.stages.given.length(lengths)

    @property
    def new_cache(self) -> Callable[..., TokenCache]:
        """The method `_new_cache`; absent where the head does not go on with a text."""
        if not isinstance(self.head_stage, heads.NextToken):
            raise AttributeError("only the head next_token decodes", name="new_cache", obj=self)
        return self._new_cache

    def _new_cache(self, batch_size: int, max_len: int | None = None) -> TokenCache:
        """Returns an empty cache for so many rows of at most `max_len` tokens (or `max_seq_len`)."""
        longest = max_len or self.config.max_seq_len
        if longest is None:
            raise UsageError("model.max_seq_len must be known to generate, but is absent. Set it.")
        return TokenCache(batch_size, longest, self.head_weight.device)

    def _padded(self, inputs: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Returns the inputs, padded where they are shorter than the windows of the stages, and then their lengths."""
        if isinstance(self.config.input, Image) or inputs.shape[1] >= self._shortest:
            return inputs, lengths
        if lengths is None:
            lengths = torch.full((len(inputs),), inputs.shape[1], device=inputs.device)
        missing = self._shortest - inputs.shape[1]
        return F.pad(inputs, (0, 0) * (inputs.ndim - 2) + (0, missing)), lengths

    def _check_input(self, inputs: Tensor) -> None:
        kind = self.config.input
        if isinstance(kind, Image):
            wanted = (kind.channels, kind.height, kind.width)
            if inputs.shape[1:] != wanted:
                raise UsageError(
                    f"an image must be {' x '.join(map(str, wanted))}, as model.input says, but is "
                    f"{' x '.join(map(str, inputs.shape[1:]))}. Change one of them."
                )
        elif self.config.max_seq_len is not None and inputs.shape[1] > self.config.max_seq_len:
            raise UsageError(
                f"a sequence must have at most model.max_seq_len = {self.config.max_seq_len} places, but has "
                f"{inputs.shape[1]}. Shorten it, or build the model longer."
            )


def shorter(lengths: Int[Tensor, " batch"] | None, windows: Iterable[Window]) -> Int[Tensor, " batch"] | None:
    """Returns what windows leave of lengths."""
    for window in windows:
        lengths = None if lengths is None else window.length(lengths)
    return lengths


def _needed(windows: Sequence[Window]) -> int:
    """Returns how many places the input must have for one to be left."""
    places = 1
    for window in reversed(windows):
        places = (places - 1) * window.stride + (window.reach if window.padding == "none" else 0) + 1
    return places


def example(config: StackConfig, batch_size: int, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Returns inputs of `forward` that a small config accepts, different in every row; sequences of unequal length."""
    given = begin(config)[1]
    time = config.max_seq_len or 16
    shape = [batch_size, *(time if axis == "time" else given.size(axis) or 1 for axis in given.axes)]
    numbers = torch.arange(math.prod(shape), device=device).reshape(shape)
    numbers = (numbers * numbers * 7 + numbers) % (config.vocab_size or 101)
    inputs = numbers if given.form == "tokens" else numbers / 50.0 - 1.0
    if given.form == "image":
        return {"inputs": inputs}
    return {"inputs": inputs, "lengths": time - 3 * torch.arange(batch_size, device=device) % max(1, time // 2)}
