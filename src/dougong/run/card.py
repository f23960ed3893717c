"""The model card: `README.md` in a model folder, for the person who finds it one day.

Knows what a run knows of itself; computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dougong.recipe.recipe import Recipe, to_yaml
from dougong.run.parts import Parts

_FIGURES = {
    "loss": "loss (nats)",
    "accuracy": "accuracy",
    "top5_accuracy": "accuracy among the five likeliest",
    "macro_f1": "F1, mean over the classes",
    "precision": "precision",
    "recall": "recall",
    "exact_match": "exact match",
    "f1": "F1",
    "bleu": "BLEU",
    "chrf": "chrF",
    "calibration_error": "expected calibration error",
    "map": "COCO mean average precision",
    "map_50": "mean average precision at an overlap of 0.5",
    "map_voc": "VOC mean average precision",
    "bits_per_masked_token": "bits per hidden token",
    "bits_per_masked_byte": "bits per byte of hidden tokens",
    "masked_accuracy": "accuracy on hidden tokens",
    "follows_accuracy": "accuracy on what follows",
    "perplexity": "perplexity",
    "bits_per_byte": "bits per byte",
    "gzip_bits_per_byte": "bits per byte of gzip -9 on the same text",
    "xz_bits_per_byte": "bits per byte of xz -9 on the same text",
}


def write_card(parts: Parts, model: nn.Module, metrics: Mapping[str, float], steps: int) -> str:
    """Returns the text of the card.

    Args:
        parts: Of the run.
        model: What was trained, with its adapter if there is one.
        metrics: Its figures.
        steps: How many updates there were.
    """
    recipe, data = parts.recipe, parts.data
    title = recipe.title or f"A model for {recipe.task.name.replace('_', ' ')}"  # type: ignore[attr-defined]
    front = {
        "license": "other" if data.licence != "unknown" else "unknown",
        **({"license_name": data.licence.lower()} if data.licence != "unknown" else {}),
        "pipeline_tag": parts.task.pipeline_tag,
        "tags": ["dougong", recipe.model.name],  # type: ignore[attr-defined]
    }
    rows = "\n".join(f"| {name} | {_figure(metrics, key)} |" for key, name in _FIGURES.items() if key in metrics)
    return f"""---
{to_yaml(front)}---

# {title}

{recipe.description or "Trained with dougong."}

## Size

{_parameters(recipe, model)}{_sizes(parts)}.

## Data

Source: {data.source}. Licence, as the source states it: {data.licence}. What that means for the use of these weights is
for whoever shares them to judge.

{_counts(data.counts)}
## How it was trained

{steps:,} steps, {parts.items(steps):,} {parts.task.item}, {_optimizer(recipe)}. The whole recipe is
`recipe.yaml` in the folder of the run.{_adapter(recipe, model)}

## Figures on the validation data

| figure | value |
| --- | --- |
{rows}

## How to load it

{_WRITING if parts.writes_text else _LOADING}{_LABELS if getattr(data, "labels", None) else ""}"""


_LOADING = """
```python
from dougong.checkpoint.weights import load_model

model = load_model("path/to/this/folder").eval()
```
"""
_LABELS = """
`labels.json` has the names of the classes, in the order of the model's outputs.
"""
_WRITING = """
```python
import dougong

lm = dougong.load("path/to/this/folder")
print(lm.generate("Once", max_new_tokens=100, temperature=0.8))
```

If `config.json` names a `model_type` other than `dougong-gpt`, it opens in transformers as well:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```
"""


def _sizes(parts: Parts) -> str:
    """Returns `; context of 128 tokens; vocabulary of 1,024 tokens`, as far as there are such."""
    length, vocabulary = getattr(parts.data, "seq_len", None), getattr(parts.model, "vocab_size", None)
    context = f"; context of {length:,} tokens" if length else ""
    return context + (f"; vocabulary of {vocabulary:,} tokens" if vocabulary else "")


def _parameters(recipe: Recipe, model: nn.Module) -> str:
    """Returns how many parameters there are; those of an adapter are in the weights, or beside them."""
    count = sum(p.numel() for p in model.parameters())
    added = sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name)
    beside = f", and {added:,} of an adapter beside them" if recipe.adapter and not recipe.adapter.merge else ""
    return f"{count - added:,} parameters{beside}"


def _adapter(recipe: Recipe, model: nn.Module) -> str:
    """Returns what to say of an adapter; nothing where there is none."""
    adapter = recipe.adapter
    if adapter is None:
        return ""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    start = (
        f"\n\nTrained was an adapter (LoRA, rank {adapter.rank}, alpha {adapter.alpha:g}) of {trained:,} parameters "
    )
    start += f"beside the weights of {recipe.init_from or 'a random model'}. "
    if adapter.merge:
        return f"{start}The weights here have taken it in."
    return (
        f"{start}The weights here are without it. `dougong` takes it in when it opens this folder; with transformers, "
        '`peft.PeftModel.from_pretrained(model, "path/to/this/folder/adapter")` does.'
    )


def _figure(metrics: Mapping[str, float], key: str) -> str:
    low, high = metrics.get(f"{key}_low"), metrics.get(f"{key}_high")
    over = "over documents" if key == "bits_per_byte" else "over examples"
    interval = f" (95 % interval {over}: {low:.3f} to {high:.3f})" if low and high else ""
    return f"{metrics[key]:.4f}{interval}"


def _optimizer(recipe: Recipe) -> str:
    train = recipe.train
    return f"{train.optimizer.name} at a learning rate of {train.optimizer.lr:g}, schedule {train.schedule.name}"


def _counts(counts: Any) -> str:
    """Returns a table of what each source held: its documents, tokens and bytes."""
    rows = []
    for entry in counts:
        for part in ("train", "validation"):
            if part not in entry:
                continue
            inside = entry[part]
            numbers = {key: value for key, value in inside.items() if isinstance(value, int)}
            held = ", ".join(f"{value:,} {key}" for key, value in numbers.items())
            rows.append(f"| {entry['source']} | {part} | {held} |")
    return "\n".join(["| source | part | holds |", "| --- | --- | --- |", *rows, ""])
