"""The house keeps its own rules, and each rule is shown to catch the fault it is there for."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import shlex
import textwrap
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pydantic
import pytest

import dougong
from dougong.core.config import Config, part_names
from tests import house

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "dougong"
READMES = ("README.md", "README.zh-CN.md")
PAGES = [*READMES, "CONTRIBUTING.md", *sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md"))]
COMPLAINTS: list[Callable[[Path], list[str]]] = [
    house.floor_complaints,
    house.cycle_complaints,
    house.dynamic_import_complaints,
    house.size_complaints,
    house.name_complaints,
    house.executing_complaints,
    house.reading_complaints,
    house.stub_complaints,
    house.forward_complaints,
    house.docstring_complaints,
]


def tree(folder: Path, files: dict[str, str]) -> Path:
    """Returns a made-up package, named as ours so that its imports read as ours."""
    package = folder / "dougong"
    for path, text in files.items():
        file = package / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return package


def long_function(lines: int) -> str:
    return '"""Long."""\n\n\ndef long():\n' + "    x = 1\n" * (lines - 1)


# Each rule, and small trees that break it. A rule that lets one of these through guards nothing.
BROKEN: list[tuple[Callable[[Path], list[str]], dict[str, str]]] = [
    (house.floor_complaints, {"nn/attention.py": "from dougong.models import gpt"}),
    (house.floor_complaints, {"nn/attention.py": "def f():\n    import dougong.train.loop"}),
    (house.floor_complaints, {"nn/attention.py": "from dougong.data.loader import Batches"}),
    (house.floor_complaints, {"models/gpt.py": "from ..tasks import language_modeling"}),
    (house.floor_complaints, {"train/loop.py": "from ..recipe import Recipe"}),
    (house.floor_complaints, {"train/loop.py": "import dougong"}),
    (house.floor_complaints, {"train/loop.py": "from dougong import run"}),
    (house.floor_complaints, {"recipe.py": "from dougong.run import train"}),
    (house.floor_complaints, {"odds/ends.py": ""}),
    (house.cycle_complaints, {"nn/a.py": "from dougong.nn import b", "nn/b.py": "def f():\n    from .a import x"}),
    (
        house.cycle_complaints,
        {"nn/a.py": "import dougong.nn.b", "nn/b.py": "from . import c", "nn/c.py": "from . import a"},
    ),
    (house.dynamic_import_complaints, {"nn/a.py": "import importlib\nimportlib.import_module('dougong.cli')"}),
    (house.size_complaints, {"nn/a.py": "x = 1\n" * 501}),
    (house.size_complaints, {"nn/a.py": long_function(81)}),
    (house.size_complaints, {"nn/a.py": "def f(a, b, c, d, *, e, f, g, h): ..."}),
    (house.size_complaints, {"nn/a.py": "class A:\n    def f(self, a, b, c, d, e, f, *g, **h): ..."}),
    (house.name_complaints, {"nn/utils.py": ""}),
    (house.name_complaints, {"common/attention.py": ""}),
    (house.executing_complaints, {"data/a.py": "import pickle"}),
    (house.executing_complaints, {"data/a.py": "def f():\n    from cloudpickle import loads"}),
    (house.executing_complaints, {"data/a.py": "torch.load('x.pt', weights_only=True)"}),
    (house.executing_complaints, {"data/a.py": "from torch import load"}),
    (house.executing_complaints, {"data/a.py": "yaml.load(text)"}),
    (house.executing_complaints, {"data/a.py": "YAML(typ='unsafe')"}),
    (house.executing_complaints, {"data/a.py": "value = eval(text)"}),
    (house.executing_complaints, {"data/a.py": "exec(text)"}),
    (house.executing_complaints, {"data/a.py": "np.load(path, allow_pickle=True)"}),
    (house.executing_complaints, {"data/a.py": "load(path, trust_remote_code=flag)"}),
    (house.executing_complaints, {"run/within.py": "value = eval(text)"}),
    (house.executing_complaints, {"run/exam.py": "exec(compile(text, 'program', 'exec'))"}),
    (house.executing_complaints, {"checkpoint/unpickle.py": "torch.load(path)"}),
    (house.executing_complaints, {"checkpoint/unpickle.py": "torch.load(path, weights_only=False)"}),
    (house.executing_complaints, {"checkpoint/unpickle.py": "torch.load(path, weights_only=safe)"}),
    (house.executing_complaints, {"checkpoint/unpickle.py": "torch.load(path, weights_only=True, **more)"}),
    (house.executing_complaints, {"checkpoint/unpickle.py": "torch.load(path, weights_only=True, pickle_module=dill)"}),
    (house.executing_complaints, {"checkpoint/unpickle.py": "load = torch.load\nload(path, weights_only=True)"}),
    (house.executing_complaints, {"checkpoint/unpickle.py": "import pickle"}),
    *(
        (house.reading_complaints, {"data/a.py": code})
        for code in (
            "open(path)",
            "with path.open('rb') as file: ...",
            "def f():\n    return Path(path).read_text()",
            "(folder / name).read_bytes()",
            "path.write_text('x')",
            "io.open(path)",
            "os.open(path, os.O_RDONLY)",
            "gzip.open(path)",
            "tarfile.open(path)",
            "zipfile.ZipFile(path)",
            "np.load(path)",
            "np.fromfile(path)",
            "numpy.memmap(path)",
            "torch.load(path, weights_only=True)",
            "torch.from_file(path)",
            "yaml.load(path)",
            "from safetensors import safe_open",
            "from safetensors.torch import load_file, save_file",
            "safetensors.torch.load_file(path)",
            "from torch import load",
            "from io import open",
            "AutoModel.from_pretrained(name)",
            "importlib.resources.files('dougong').joinpath(name).read_text()",
            "tempfile.NamedTemporaryFile()",
            "other.files_of.read_text(path)",
        )
    ),
    (house.reading_complaints, {"checkpoint/unpickle.py": "zipfile.ZipFile(path)"}),
    (house.reading_complaints, {"checkpoint/unpickle.py": "torch.load(path)"}),
    (house.stub_complaints, {"nn/a.py": "def f():\n    raise Not" + "ImplementedError"}),
    (house.stub_complaints, {"nn/a.py": "x = 1  # TO" + "DO: more"}),
    (house.forward_complaints, {"nn/a.py": "class A:\n    def forward(self, x: Tensor) -> Float[Tensor, 'a b']: ..."}),
    (house.forward_complaints, {"nn/a.py": "class A:\n    def forward(self, x: Float[Tensor, 'a']): ..."}),
    (
        house.forward_complaints,
        {"nn/a.py": "class A:\n    def forward(self, x: Float[Tensor, 'a'], use_flash: bool) -> Int[Tensor, 'a']: ..."},
    ),
    (house.docstring_complaints, {"nn/a.py": "x = 1"}),
]

# What the same rules must let pass.
SOUND = {
    "__init__.py": '"""Root."""\n\n\ndef train():\n    from dougong import run\n    return run',
    "core/config.py": '"""Config."""\nimport importlib\nimportlib.import_module("dougong.models.gpt")',
    "nn/attention.py": '"""Attention."""\nimport re\nfrom dougong.core import config\nre.compile("a")',
    "nn/norm.py": '"""Norm."""\n\n\ndef f(a, b, c, d, e, f, g): ...',
    "models/gpt.py": '"""Model."""\nfrom dougong.nn.norm import f\nmodel.eval()\nread(x, allow_pickle=False)',
    "run.py": (
        '"""Run."""\nimport json\njson.loads(text)\nfiles.read_text(path)\nfiles.open_binary(path, "ab")\n'
        "webbrowser.open(page)\nself.checkpointer.open(state)\nos.open(os.devnull, os.O_WRONLY)\nread_json(path)"
    ),
    "core/files.py": '"""Files."""\nopen(path)\nnp.memmap(file)\nfrom safetensors import safe_open',
    "checkpoint/unpickle.py": (
        '"""One."""\ntorch.load(path, map_location="cpu", weights_only=True, mmap=True)\nzipfile.ZipFile(source)'
    ),
}


@pytest.mark.parametrize("rule", COMPLAINTS, ids=lambda rule: rule.__name__)
def test_source_keeps_the_rule(rule: Callable[[Path], list[str]]) -> None:
    assert rule(PACKAGE) == []


@pytest.mark.parametrize(("rule", "files"), BROKEN, ids=[f"{rule.__name__}-{n}" for n, (rule, _) in enumerate(BROKEN)])
def test_rule_catches_what_it_is_for(rule: Callable[[Path], list[str]], files: dict[str, str], tmp_path: Path) -> None:
    assert rule(tree(tmp_path, files))


@pytest.mark.parametrize("rule", COMPLAINTS, ids=lambda rule: rule.__name__)
def test_rule_lets_sound_code_pass(rule: Callable[[Path], list[str]], tmp_path: Path) -> None:
    assert rule(tree(tmp_path, SOUND)) == []


def test_every_rule_has_a_negative_control() -> None:
    assert {rule for rule, _ in BROKEN} == set(COMPLAINTS)


def test_half_of_all_functions_have_at_most_ten_lines(tmp_path: Path) -> None:
    assert house.median_function_length(PACKAGE) <= 10
    assert house.median_function_length(tree(tmp_path, {"nn/a.py": long_function(30)})) == 30


def modules() -> Iterator[str]:
    yield from (m.name for m in pkgutil.walk_packages(dougong.__path__, "dougong.") if m.name != "dougong.__main__")


def subclasses(kind: type) -> Iterator[type]:
    for below in kind.__subclasses__():
        yield below
        yield from subclasses(below)


def undescribed(config: type[pydantic.BaseModel]) -> list[str]:
    return [f"{config.__qualname__}.{name}" for name, field in config.model_fields.items() if not field.description]


def test_every_config_field_has_a_description() -> None:
    for name in modules():
        importlib.import_module(name)
    own = [config for config in subclasses(Config) if config.__module__.startswith("dougong.")]
    assert len(own) >= 5
    assert [field for config in own for field in undescribed(config)] == []


def test_a_field_without_description_is_found() -> None:
    class Silent(Config):
        size: int = 1

    assert undescribed(Silent) == ["test_a_field_without_description_is_found.<locals>.Silent.size"]


def written_files() -> list[Path]:
    folders = [ROOT / name for name in ("src", "tests", "docs", "benchmarks", "scripts", ".ci")]
    inside = [
        file for folder in folders for file in folder.rglob("*") if file.suffix in _TEXT or file.parent.name == ".ci"
    ]
    top = [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob("*.yml"), ROOT / "Makefile"]
    return [file for file in (*inside, *top) if file.is_file() and ".cache" not in file.parts]


_TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".json", ".txt", ".css"}


def test_no_file_tells_on_which_machine_it_was_written(tmp_path: Path) -> None:
    assert house.machine_path_complaints(ROOT, written_files()) == []
    guilty = tmp_path / "guilty.md"
    guilty.write_text("see /wo" + "rk/main, but not frame/work/main\n", encoding="utf-8")
    assert len(house.machine_path_complaints(tmp_path, [guilty])) == 1


def command_fault(words: list[str]) -> str | None:
    """Parses a command line with the real command line's parser; returns what is wrong with it, or None."""
    import click
    import typer

    from dougong.cli import app

    group = typer.main.get_command(app)
    try:
        with group.make_context("dougong", words[1:2], resilient_parsing=True) as context:
            verb, rest = group.get_command(context, words[1]), list(words[2:])
            if verb is None:
                return f"{words[1]} is not a verb"
            if hasattr(verb, "commands") and rest and not rest[0].startswith("-"):  # a verb with verbs of its own
                verb = verb.commands.get(rest.pop(0))
                if verb is None:
                    return f"{' '.join(words[1:3])} is not a verb"
            verb.make_context(words[1], rest, parent=context)
    except Exception as error:
        if not isinstance(error, click.exceptions.ClickException) and "Click" not in str(type(error).__mro__):
            raise
        return str(error)
    return None


def shell_faults(text: str) -> list[str]:
    """Returns what is wrong with the commands that a page tells a reader to type."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    recipes = {file.stem for file in (PACKAGE / "recipes").glob("*.yaml")}
    found = []
    for command in house.shell_commands(text):
        words = shlex.split(command.split(" | ")[0].split(" > ")[0], comments=True)
        if words[0] == "make" and len(words) > 1 and words[1] not in targets:
            found.append(f"{command}: no such target")
        if words[0] != "dougong":
            continue
        if fault := command_fault(words):
            found.append(f"{command}: {fault}")
        names = [w for w in words[2:3] if words[1] in ("train", "recipe") and re.fullmatch(r"[a-z0-9][a-z0-9.-]*", w)]
        found += [
            f"{command}: {name} is not shipped" for name in names if not name.endswith("yaml") and name not in recipes
        ]
    return found


def recipe_faults(text: str) -> list[str]:
    """Returns the complaints about the recipes that a page shows: YAML blocks (whole or of `data`), and `--set`."""
    from dougong.core.errors import DougongError
    from dougong.recipe import load, shipped_names
    from dougong.recipe.document import parse

    attempts: list[tuple[Any, list[str], dict[str, Any]]] = []
    for block in house.fenced_blocks(text, "yaml"):
        values = parse(textwrap.dedent(block), "page").values
        if "sources" in values:
            values = {"data": {"name": "text", **values}}
        whole = "model" in values or "init_from" in values
        start = {"model": {"name": "gpt"}} if "init_from" in values else {}
        attempts.append(({**start, **values}, [], {}) if whole else ("gpt-stdlib", [], values))
    for command in house.shell_commands(text):
        words = shlex.split(command, comments=True)
        changes = [after for word, after in pairwise(words) if word == "--set"]
        if words[0] == "dougong" and changes:
            attempts.append((words[2] if words[2] in shipped_names() else "gpt-stdlib", changes, {}))
    found = []
    for source, changes, options in attempts:
        try:
            load(source, changes, options)
        except DougongError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_recipes_of_the_page_are_valid(page: str) -> None:
    assert recipe_faults((ROOT / page).read_text(encoding="utf-8")) == []


def test_a_recipe_that_is_not_valid_is_found() -> None:
    assert recipe_faults("```yaml\nmodel: {name: gpt, dimm: 3}\n```\n")
    assert recipe_faults("```yaml\ndata: {name: text, sauces: []}\n```\n")
    assert recipe_faults("```sh\ndougong train gpt-stdlib --set train.stepz=3\n```\n")


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_page_run(page: str) -> None:
    assert shell_faults((ROOT / page).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "dougong trian gpt-stdlib",
        "dougong checkpoint lits runs/mine",
        "dougong checkpoint list runs/mine --no-such-option",
        "dougong train gpt-stdlib --no-such-option",
        "dougong train no-such-recipe",
        "make nonsense",
    ],
)
def test_a_command_that_does_not_run_is_found(line: str) -> None:
    assert len(shell_faults(f"```sh\n{line}\n```\n")) == 1
    assert shell_faults("```sh\ndougong train gpt-stdlib\nmake demo\n```\n") == []


def python_faults(text: str) -> list[str]:
    """Returns what a page's Python examples take from dougong that is not there."""
    found = []
    for block in house.fenced_blocks(text, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "dougong":
                found += [] if hasattr(dougong, node.attr) else [f"dougong.{node.attr}"]
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dougong"):
                module = importlib.import_module(node.module or "")
                found += [f"{node.module}.{a.name}" for a in node.names if not hasattr(module, a.name)]
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/algorithms.md"])
def test_python_of_the_page_names_what_exists(page: str) -> None:
    assert python_faults((ROOT / page).read_text(encoding="utf-8")) == []


def test_python_that_names_nothing_is_found() -> None:
    page = "```python\nimport dougong\nfrom dougong.core.config import Cofnig\ndougong.trian()\n```\n"
    assert python_faults(page) == ["dougong.core.config.Cofnig", "dougong.trian"] or len(python_faults(page)) == 2


def test_both_readmes_show_the_same_commands() -> None:
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in READMES)
    assert house.shell_commands(english) == house.shell_commands(chinese)
    assert house.fenced_blocks(english, "yaml") == house.fenced_blocks(chinese, "yaml")
    assert house.shell_commands(english)


def links(text: str) -> list[str]:
    """Returns the relative links of a Markdown page, without their anchors."""
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    return [target for target in targets if "://" not in target and not target.startswith("mailto:")]


@pytest.mark.parametrize("page", PAGES)
def test_links_of_the_page_lead_somewhere(page: str) -> None:
    generated = ("reference/", "../reference/")  # made from the docstrings when the documentation is built
    found = links((ROOT / page).read_text(encoding="utf-8"))
    assert [x for x in found if not x.startswith(generated) and not (ROOT / page).parent.joinpath(x).exists()] == []


def test_a_dead_link_is_found() -> None:
    assert links("see [a](nowhere.md#x) and [b](https://example.org) and [c](#here)") == ["nowhere.md"]


def test_every_line_quoted_in_algorithms_stands_in_the_code() -> None:
    text = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    assert text.count('```python title="src/dougong/') >= 15
    assert house.quoted_code_complaints(ROOT, text) == []


def test_a_quoted_line_that_no_longer_stands_in_the_code_is_found() -> None:
    page = '```python title="src/dougong/core/seed.py"\n{}\n```\n'
    assert house.quoted_code_complaints(ROOT, page.format("def draw_byts(): ...")) != []
    assert house.quoted_code_complaints(ROOT, page.format("import hashlib")) == []
    assert house.quoted_code_complaints(ROOT, '```python title="src/dougong/no.py"\nx\n```\n') != []


def test_readme_names_every_kind_of_part_that_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for kind in ("models", "tasks") for name in part_names(kind) if name not in text] == []
