"""What every task must do. Finds the tasks by listing the folder, so a new one is tested without writing a test."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dougong.core.config import find_part, part_names, validate
from dougong.core.contracts import Batch, Task

# The smallest model that suits each objective.
MODELS = {
    "language_modeling": {"name": "gpt", "vocab_size": 19, "max_seq_len": 6, "dim": 8, "num_heads": 2, "num_layers": 1},
    "masked_lm": {
        "name": "bert",
        "head": "pretraining",
        "vocab_size": 37,
        "max_seq_len": 20,
        "dim": 8,
        "num_heads": 2,
        "num_layers": 1,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    },
    "text_classification": {
        "name": "stack",
        "vocab_size": 37,
        "max_seq_len": 6,
        "num_classes": 3,
        "stages": [{"embed": {"dim": 8, "std": 0.5}}, {"conv": {"kernel": 2}}, "activate", {"pool": "max"}, "classify"],
    },
    "token_classification": {
        "name": "stack",
        "vocab_size": 37,
        "max_seq_len": 6,
        "num_classes": 3,
        "stages": [{"embed": {"dim": 8, "std": 0.5}}, {"conv": {"kernel": 3}}, "activate", "tag"],
    },
    "question_answering": {
        "name": "bert",
        "head": "spans",
        "vocab_size": 37,
        "max_seq_len": 12,
        "dim": 8,
        "num_heads": 2,
        "num_layers": 1,
    },
    "translation": {
        "name": "seq2seq",
        "vocab_size": 37,
        "max_seq_len": 12,
        "start_id": 0,
        "dim": 8,
        "num_heads": 2,
        "num_layers": 1,
        "dropout": 0.0,
    },
    "image_classification": {
        "name": "stack",
        "input": {"image": {"channels": 1, "height": 4, "width": 6}},
        "num_classes": 3,
        "stages": [{"conv": 6}, "activate", {"flatten": "channel"}, "classify"],
    },
    "object_detection": {
        "name": "retinanet",
        "image_shape": [1, 16, 24],
        "num_classes": 3,
        "trunk": {"name": "resnet", "stem": "cifar", "norm": "none", "depths": [1, 1, 1], "widths": [4, 6, 6]},
        "finest_stride": 2,
        "extra_levels": 1,
        "pyramid_dim": 8,
        "head_layers": 1,
        "anchor_scales": [1.0],
    },
}

# What concerns answers and no loss, is tested where answers are.
OF_ANSWERS = (
    *("score_threshold", "nms_threshold", "candidates", "max_detections"),
    *("max_answer_len", "no_answer_threshold"),
    *("num_beams", "length_penalty", "length_norm", "coverage_penalty", "max_ratio", "max_extra"),
    *("bleu_tokenizer", "lowercase"),
)
# Words of several tokens are a tokenizer's, and here is none.
OF_WORDS = ("whole_words",)


def built(name: str, **options: Any) -> tuple[Task, nn.Module]:
    values = MODELS[name]
    model_config = validate(find_part("models", values["name"]).PART, values)
    config = validate(find_part("tasks", name).PART, options)
    model = model_config.build()
    model.init_weights(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.1
    return config.build(model_config), model


def example(task: Task, size: int = 6) -> Batch:
    return task.example_batch(size, "cpu")


@pytest.fixture(params=part_names("tasks"))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_example_batch_runs_on_meta(name: str) -> None:
    task, model = built(name)
    loss = task.loss(model.to("meta"), task.example_batch(3))
    assert loss.sum.device.type == "meta"
    assert loss.sum.shape == loss.weight.shape == ()


def test_every_field_of_a_batch_has_the_examples_first(name: str) -> None:
    task, _ = built(name)
    batch = example(task)
    assert len(batch.samples) == 6
    assert all(len(tensor) == 6 for tensor in batch.fields.values())


def test_a_loss_is_a_sum_so_microbatches_add_up(name: str) -> None:
    task, model = built(name)
    model.double()
    batch = example(task)
    whole = task.loss(model, batch)
    parts = [task.loss(model, part) for part in batch.split(4)]
    torch.testing.assert_close(whole.sum, sum(part.sum for part in parts), rtol=1e-12, atol=0.0)
    assert whole.weight == sum(part.weight for part in parts)
    # The control: a mean of means is something else, as the parts differ in size.
    means = sum(part.sum / part.weight for part in parts) / len(parts)
    assert not torch.isclose(whole.sum / whole.weight, means, rtol=1e-12, atol=0.0)


def test_batch_mates_change_nothing(name: str) -> None:
    task, model = built(name)
    model.double()
    batch = example(task)
    alone = task.loss(model, batch.split(1)[3]).sum
    mates = [task.loss(model, part).sum for part in batch.split(3)]
    others = [task.loss(model, part).sum for i, part in enumerate(batch.split(1)) if i in (4, 5)]
    torch.testing.assert_close(mates[1], alone + sum(others), rtol=1e-12, atol=0.0)


def test_every_parameter_gets_a_gradient(name: str) -> None:
    task, model = built(name)
    task.loss(model, example(task)).sum.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_metrics_name_the_loss_first_and_do_not_depend_on_batching(name: str) -> None:
    task, model = built(name)
    batch = example(task)
    found = []
    for size in (6, 2):
        metrics = task.metrics()
        with torch.inference_mode():
            for part in batch.split(size):
                metrics.update(model, part)
        found.append(metrics.compute())
    assert next(iter(found[0])) == "loss"
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_the_plain_loss_is_the_mean_that_metrics_report(name: str) -> None:
    task, model = built(name)
    batch = example(task)
    metrics = task.metrics()
    metrics.update(model, batch)
    loss = task.loss(model, batch)
    assert metrics.compute()["loss"] == pytest.approx((loss.sum / loss.weight).item(), rel=1e-5)


def test_every_option_changes_the_loss(name: str) -> None:
    task, model = built(name)
    plain = task.loss(model, example(task)).sum
    for field in find_part("tasks", name).PART.model_fields:
        if field not in {"name", *OF_ANSWERS, *OF_WORDS}:
            other, _ = built(name, **{field: 0.125})
            assert other.loss(model, example(other)).sum != plain, field


def test_a_batch_can_be_overfitted(name: str) -> None:
    task, model = built(name)
    batch = example(task)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = task.loss(model, batch)
        losses.append((loss.sum / loss.weight).item())
        optimizer.zero_grad()
        (loss.sum / loss.weight).backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
