"""The command line has these options and no others: a new one is a decision, not an accident."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from dougong.cli import app

OPTIONS = {
    "": ["--help", "--json-errors", "--version"],
    "train": ["--allow", "--fallback", "--help", "--json", "--resume", "--run", "--set", "RECIPE"],
    "check": ["--help", "--json", "--set", "RECIPE"],
    "evaluate": ["--help", "--json", "--run", "--set", "RECIPE"],
    "generate": [
        "--device",
        "--help",
        "--json",
        "--length-penalty",
        "--max-new-tokens",
        "--min-p",
        "--num-beams",
        "--precision",
        "--repetition-penalty",
        "--run",
        "--seed",
        "--stop",
        "--temperature",
        "--top-k",
        "--top-p",
        "RECIPE",
        "[PROMPT]...",
    ],
    "recipe": ["--help", "--json", "--schema", "--set", "RECIPE"],
    "list": ["--help", "--json", "KIND"],
    "doctor": ["--help", "--json"],
}


def options(command: Any) -> list[str]:
    names = [
        next(option for option in parameter.opts if option.startswith("--")) if parameter.opts[0].startswith("-")
        else parameter.metavar
        for parameter in command.params
    ]  # fmt: skip
    return sorted({*names, "--help"})


def test_the_options_are_the_frozen_list() -> None:
    group: Any = typer.main.get_command(app)
    found = {"": options(group), **{name: options(command) for name, command in group.commands.items()}}
    assert found == OPTIONS


def test_every_verb_has_json_and_every_option_has_help() -> None:
    group: Any = typer.main.get_command(app)
    assert all("--json" in options(command) for command in group.commands.values())
    assert [p.name for command in group.commands.values() for p in command.params if not p.help] == []
    assert all(command.help for command in group.commands.values())


def test_a_new_option_is_noticed() -> None:
    other = typer.Typer()

    @other.command()
    def verb(run: str = typer.Option("", "--run"), surprise: bool = typer.Option(False, "--surprise")) -> None: ...

    assert "--surprise" in options(typer.main.get_command(other))


@pytest.mark.parametrize("verb", ["train", "check", "evaluate", "generate", "recipe", "list", "doctor"])
def test_every_verb_explains_itself(verb: str, dougong: Any) -> None:
    answer = dougong(verb, "--help")
    assert answer.code == 0
    assert f"Usage: dougong {verb}" in answer.out
