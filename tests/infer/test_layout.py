from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from dougong.infer.layout import lay_out_for_decoding


def test_layout_changes_strides_and_no_value(make_model: Callable[..., nn.Module]) -> None:
    model, laid_out = make_model("llama"), lay_out_for_decoding(make_model("llama"))
    tokens = torch.arange(30)[None]
    torch.testing.assert_close(model(tokens), laid_out(tokens), rtol=1e-5, atol=1e-5)
    strides = {}
    for (name, before), after in zip(model.named_parameters(), laid_out.parameters(), strict=True):
        assert torch.equal(before, after)
        strides[name] = after.stride()
    assert strides["blocks.0.attention.qkv.weight"] == (1, 64)  # 64 rows of 32: its columns are the longer runs
    assert strides["blocks.0.feedforward.down.weight"][1] == 1


def test_tied_weights_stay_one_tensor(make_model: Callable[..., nn.Module]) -> None:
    model = lay_out_for_decoding(make_model("gpt2"))
    assert model.head_weight.data_ptr() == model.token_embedding.weight.data_ptr()


def test_narrow_types_keep_their_layout(make_model: Callable[..., nn.Module]) -> None:
    model = lay_out_for_decoding(make_model("gpt2").to(torch.bfloat16))
    assert all(parameter.is_contiguous() for parameter in model.parameters())
