"""How fast GPT-2 124M writes at batch 1: `dougong` beside `transformers.generate`, and beside what memory allows.

Both have the same random weights and the same greedy decoding, and take turns. Type `python -m benchmarks.generation`;
the number of threads is `OMP_NUM_THREADS`, or all cores.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.rounds import alternate, ratio, show
from dougong.checkpoint.weights import load_model
from dougong.core.device import DTYPES, memory_bandwidth
from dougong.infer.config import GenerateConfig
from dougong.infer.engine import Decoding
from dougong.infer.layout import lay_out_for_decoding

PROMPT = tuple(range(1000, 1016))


def measure(precisions: Sequence[str] = ("fp32", "bf16"), new_tokens: int = 64, rounds: int = 3) -> dict[str, Any]:
    """Returns the figures by name; each name begins with its precision."""
    figures: dict[str, Any] = {"threads": torch.get_num_threads()}
    for precision in precisions:
        theirs, ours = models(DTYPES[precision])
        for name, value in compare(theirs, ours, new_tokens, rounds).items():
            figures[f"{precision} {name}"] = value
    return figures


def models(dtype: torch.dtype) -> tuple[Any, nn.Module]:
    """Returns GPT-2 124M with random weights in both libraries: saved by `transformers`, loaded here."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(bos_token_id=None, eos_token_id=None)).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = load_model(folder, dtype=dtype).eval()
    return theirs.to(dtype), lay_out_for_decoding(ours)


def compare(theirs: Any, ours: nn.Module, new_tokens: int, rounds: int) -> dict[str, Any]:
    """Lets both write the same text in turns, after a few tokens to warm up."""
    texts: dict[str, list[int]] = {}
    steps: list[float] = []

    def write_ours() -> float:
        seconds, (texts["ours"], own_steps) = timed(lambda: generate_ours(ours, new_tokens))
        steps.extend(own_steps)
        return seconds

    def write_theirs() -> float:
        seconds, texts["theirs"] = timed(lambda: generate_theirs(theirs, new_tokens))
        return seconds

    generate_ours(ours, 4)
    generate_theirs(theirs, 4)
    seconds = alternate({"dougong": write_ours, "transformers.generate": write_theirs}, rounds)
    bandwidth = memory_bandwidth(torch.device("cpu"))
    step = statistics.median(steps)
    return {
        "times as fast as transformers.generate": ratio(seconds["dougong"], seconds["transformers.generate"]),
        "tokens/s": new_tokens / statistics.median(seconds["dougong"]),
        "tokens/s of transformers.generate": new_tokens / statistics.median(seconds["transformers.generate"]),
        "milliseconds per token once the prompt is read": step * 1e3,
        "megabytes of weights read per token": bytes_per_token(ours) / 1e6,
        "memory bandwidth in GB/s": bandwidth / 1e9,
        "share of the memory bandwidth": bytes_per_token(ours) / step / bandwidth,
        "same text as transformers.generate": texts["ours"] == texts["theirs"],
    }


def generate_theirs(model: Any, new_tokens: int) -> list[int]:
    """Returns the greedy continuation by `transformers`."""
    prompt = torch.tensor([PROMPT])
    mask = torch.ones_like(prompt)
    out = model.generate(prompt, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, pad_token_id=0)
    return out[0, len(PROMPT) :].tolist()


def generate_ours(model: nn.Module, new_tokens: int) -> tuple[list[int], list[float]]:
    """Returns the greedy continuation by `dougong`, and the seconds of each step after the prompt was read."""
    decoding = Decoding(model, [PROMPT], GenerateConfig(temperature=0, max_new_tokens=new_tokens))
    decoding.step()
    steps = []
    while decoding.live:
        steps.append(timed(decoding.step)[0])
    return decoding.tokens[0], steps


def bytes_per_token(model: nn.Module) -> int:
    """Returns the bytes of all weights that a step reads: all but the table of positions, of which it reads one row."""
    return sum(p.nbytes for name, p in model.named_parameters() if name != "position_embedding.weight")


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Returns the seconds that a call took, and what it returned."""
    begin = time.perf_counter()
    value = function()
    return time.perf_counter() - begin, value


if __name__ == "__main__":
    show("generation gpt2-124m", measure())
