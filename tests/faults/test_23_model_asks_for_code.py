"""Row 23: a model folder that asks for code: `auto_map`, `trust_remote_code`, `_target_`, `__class__`, names that look
like modules, templates, bait modules. Promise: it is loaded as data, or refused with exit 3 naming the key; no value in
it enables anything, nothing is imported from it or executed, and no connection is opened.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import dougong
from dougong.core.errors import UntrustedError
from dougong.run import importing
from tests.faults import hostile

MODULE = "modeling_x"
TEMPLATE = "{{ ''.__class__.__mro__[1].__subclasses__() }}{% for x in range(10**9) %}x{% endfor %}"


class Variant(NamedTuple):
    """A file of a model folder, what is changed in it, and the key that is named; no key: it is loaded as data."""

    file: str
    changes: dict[str, Any]
    key: str | None


VARIANTS = {
    "auto_map": Variant("config.json", {"auto_map": {"AutoModelForCausalLM": f"{MODULE}.X"}}, "auto_map"),
    "trust": Variant("config.json", {"trust_remote_code": True}, "trust_remote_code"),
    "target": Variant("config.json", {"task_specific_params": [{"a": {"_target_": "os.system"}}]}, "_target_"),
    "class": Variant("config.json", {"generation": {"__class__": f"{MODULE}.X"}}, "__class__"),
    "reduce": Variant("config.json", {"a": {"__reduce__": ["os.system", ["touch CANARY"]]}}, "__reduce__"),
    "pipelines": Variant("config.json", {"custom_pipelines": {"x": {"impl": f"{MODULE}.X"}}}, "custom_pipelines"),
    "family": Variant("config.json", {"model_type": MODULE}, "model_type"),
    "family by path": Variant("config.json", {"model_type": f"../../{MODULE}"}, "model_type"),
    "entry point": Variant("config.json", {"model_type": f"{MODULE}:X"}, "model_type"),
    "own form": Variant("config.json", {"model_type": "dougong-gpt", "name": MODULE}, "config.json"),
    "own form of another": Variant("config.json", {"model_type": "dougong-x", "config": {"name": "os"}}, "config.json"),
    "architectures": Variant("config.json", {"architectures": [f"{MODULE}.X", "os.system"]}, None),
    "tokenizer map": Variant("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [f"{MODULE}.X"]}}, "auto_map"),
    "tokenizer class": Variant("tokenizer_config.json", {"tokenizer_class": f"{MODULE}.X"}, None),
    "template": Variant("tokenizer_config.json", {"chat_template": TEMPLATE}, None),
    "generation": Variant("generation_config.json", {"trust_remote_code": True, "custom_generate": MODULE}, None),
}

# Runs command lines in a process without network, which ends when anything of the folder is imported or executed, or a
# connection is tried; prints their exit codes and sentences as JSON.
PROGRAM = """
import ctypes, io, json, os, sys
ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)  # users and network; where it fails, the hook still listens
folder, commands = sys.argv[1], json.loads(sys.argv[2])
def watch(event, details):
    bad = event.startswith("socket.") and event not in ("socket.gethostname", "socket.__new__")
    if event == "exec":
        bad = str(details[0].co_filename).startswith(folder)
    elif event == "import":
        bad = details[0] == "modeling_x" or str(details[1] or "").startswith(folder)
    elif event == "open" and isinstance(details[0], str):
        bad = os.path.abspath(details[0]).startswith(folder) and details[0].endswith(".py")
    elif event in ("os.system", "os.exec", "subprocess.Popen"):
        bad = "ldconfig" not in str(details) and "uname" not in str(details)
    if bad:
        os.write(2, f"caught {event} {details}".encode())
        os._exit(99)
sys.addaudithook(watch)
if commands == "careless":
    sys.path.insert(0, folder)
    import modeling_x
from dougong.cli import app
from dougong.cli.failure import run_guarded
found = []
for words in commands:
    out, err, sys.stdout, sys.stderr = sys.stdout, sys.stderr, io.StringIO(), io.StringIO()
    code = run_guarded(app, words)
    text, sys.stdout, sys.stderr = sys.stderr.getvalue(), out, err
    found.append([code, text])
print(json.dumps(found))
"""


def watched(folder: Path, commands: Any) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-P", "-c", PROGRAM, str(folder), json.dumps(commands)]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder, timeout=100)


def baited(folder: Path) -> Path:
    """A sound model with modules beside it that would make the canary sing, under names that somebody may import."""
    hostile.sound_model(folder)
    for name in (MODULE, "tokenizers", "safetensors", "configuration_x", "conftest", "sitecustomize", "__init__"):
        (folder / f"{name}.py").write_text(f"open({str(folder / hostile.CANARY)!r}, 'w')\nclass X: pass\n")
    return folder


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """What `generate` and a recipe that starts from the folder say to each variant."""
    root = tmp_path_factory.mktemp("folders")
    commands = []
    for name, variant in VARIANTS.items():
        folder = baited(root / name)
        hostile.edited(folder / variant.file, **variant.changes)
        start = f"{{init_from: {str(folder)!r}, task: {{name: language_modeling}}, data: {{name: text}}}}"
        commands += [["generate", str(folder), "a", "--max-new-tokens", "1"], ["recipe", start]]
    done = watched(root, commands)
    assert done.returncode == 0, done.stderr
    found = [(code, text) for code, text in json.loads(done.stdout)]
    assert not [path for path in root.rglob(hostile.CANARY)]
    return {f"{name} {way}": found.pop(0) for name in VARIANTS for way in ("generate", "init_from")}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_folder_is_loaded_as_data_or_refused_by_its_key(name: str, answers: dict[str, tuple[int, str]]) -> None:
    code, text = answers[f"{name} generate"]
    key = VARIANTS[name].key
    assert code == (0 if key is None else 3), text
    assert key is None or key in text
    assert "Traceback" not in text
    code, text = answers[f"{name} init_from"]
    refused = key is not None and VARIANTS[name].file == "config.json"
    assert code == (3 if refused else 0), text
    assert not refused or str(key) in text


@pytest.mark.parametrize("name", ["auto_map", "tokenizer map", "generation"])
def test_import_refuses_such_a_folder_before_anything_is_unpickled(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = baited(tmp_path / "model")
    hostile.edited(folder / VARIANTS[name].file, **VARIANTS[name].changes)
    (folder / "pytorch_model.bin").write_bytes(hostile.saved(hostile.weights()))
    monkeypatch.setattr(importing, "_converted", pytest.fail)
    with pytest.raises(UntrustedError, match=VARIANTS[name].key or "trust_remote_code"):
        dougong.import_weights(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert not hostile.sang(folder)


def test_without_the_refusal_a_folder_that_asks_for_code_is_taken_for_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = baited(tmp_path / "model")
    hostile.edited(folder / "config.json", **VARIANTS["auto_map"].changes)
    with pytest.raises(UntrustedError, match="auto_map"):
        dougong.load(folder)
    silent: Callable[[Any, str], None] = lambda settings, where: None  # noqa: E731
    monkeypatch.setattr("dougong.core.files.refuse_code", silent)
    assert dougong.load(folder).generate("a", max_new_tokens=1) is not None
    assert not hostile.sang(folder)


def test_without_care_the_watch_catches_the_import_and_else_the_canary_sings(tmp_path: Path) -> None:
    folder = baited(tmp_path / "model")
    done = watched(folder, "careless")
    assert done.returncode == 99, done.stderr
    assert "caught " in done.stderr
    assert not hostile.sang(folder)
    subprocess.run([sys.executable, "-c", f"import {MODULE}"], cwd=folder, check=True)
    assert hostile.sang(folder)
