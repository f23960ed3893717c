from __future__ import annotations

import subprocess
import sys

import pytest

from dougong.core.config import validate
from dougong.core.errors import RecipeError
from dougong.infer.config import GenerateConfig


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"temprature": 1}, "temprature is not an option. Did you mean temperature?"),
        ({"temperature": -1.0}, "temperature must be at least 0.0, but is -1.0."),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, but is 0."),
        ({"temperature": 0, "top_k": 5}, "top_k has no effect with temperature 0"),
        ({"num_beams": 2, "top_p": 0.5}, "top_p has no effect with num_beams 2"),
        ({"num_beams": 2, "temperature": 0.5}, "temperature has no effect with num_beams 2"),
        ({"length_penalty": 0.5}, "length_penalty has no effect without beams"),
        ({"stop": [""]}, "stop[0] must be"),
    ],
)
def test_impossible_and_idle_options_are_refused_with_a_sentence(values: dict, sentence: str) -> None:
    with pytest.raises(RecipeError) as caught:
        validate(GenerateConfig, values)
    assert sentence in str(caught.value)


def test_options_that_go_together_are_accepted() -> None:
    config = validate(GenerateConfig, {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.1, "stop": ["\n\n"]})
    assert config.stop == ("\n\n",)
    assert not config.greedy
    assert GenerateConfig(temperature=0).greedy


def test_config_is_read_without_torch() -> None:
    code = "import sys, dougong.infer.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
