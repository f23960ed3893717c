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
    "evaluate": [
        "--help",
        "--json",
        "--k",
        "--max-new-tokens",
        "--run",
        "--samples",
        "--seed",
        "--set",
        "--solutions",
        "--suite",
        "--temperature",
        "--timeout",
        "--to",
        "--top-p",
        "--workers",
        "RECIPE",
    ],
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
        "--suffix",
        "--temperature",
        "--top-k",
        "--top-p",
        "RECIPE",
        "[PROMPT]...",
    ],
    "predict": [
        "--batch-size",
        "--columns",
        "--device",
        "--help",
        "--json",
        "--max-bad-samples",
        "--min-score",
        "--precision",
        "--run",
        "--to",
        "INPUT...",
        "RECIPE",
    ],
    "data": ["--count", "--help", "--json", "--set", "--show", "--to", "--validation", "RECIPE"],
    "plan": ["--advise", "--calibrate", "--devices", "--diagram", "--help", "--json", "--set", "RECIPE"],
    "import": ["--help", "--json", "--key", "--to", "SOURCE"],
    "recipe": ["--help", "--json", "--schema", "--set", "RECIPE"],
    "list": ["--help", "--json", "KIND"],
    "diff": ["--help", "--json", "RUN_A", "RUN_B"],
    "doctor": ["--help", "--json"],
    "checkpoint list": ["--help", "--json", "RUN"],
    "checkpoint verify": ["--help", "--json", "--latest", "FOLDER"],
    "checkpoint diff": ["--bitwise", "--help", "--json", "A", "B"],
    "checkpoint prune": ["--dry-run", "--help", "--json", "--keep", "RUN"],
}


def verbs(group: Any) -> dict[str, Any]:
    """Every command by its words; a group of commands gives its own."""
    found = {}
    for name, command in group.commands.items():
        inner = verbs(command) if hasattr(command, "commands") else None
        found |= {name: command} if inner is None else {f"{name} {word}": verb for word, verb in inner.items()}
    return found


def options(command: Any) -> list[str]:
    names = [
        next(option for option in parameter.opts if option.startswith("--")) if parameter.opts[0].startswith("-")
        else parameter.metavar
        for parameter in command.params
    ]  # fmt: skip
    return sorted({*names, "--help"})


def test_the_options_are_the_frozen_list() -> None:
    group: Any = typer.main.get_command(app)
    found = {"": options(group), **{name: options(command) for name, command in verbs(group).items()}}
    assert found == OPTIONS


def test_every_verb_has_json_and_every_option_has_help() -> None:
    commands = verbs(typer.main.get_command(app)).values()
    assert all("--json" in options(command) for command in commands)
    assert [p.name for command in commands for p in command.params if not p.help] == []
    assert all(command.help for command in commands)


def test_a_new_option_is_noticed() -> None:
    other = typer.Typer()

    @other.command()
    def verb(run: str = typer.Option("", "--run"), surprise: bool = typer.Option(False, "--surprise")) -> None: ...

    assert "--surprise" in options(typer.main.get_command(other))


@pytest.mark.parametrize("verb", sorted({name.split(" ")[0] for name in OPTIONS} - {""}))
def test_every_verb_explains_itself(verb: str, dougong: Any) -> None:
    answer = dougong(verb, "--help")
    assert answer.code == 0
    assert f"Usage: dougong {verb}" in answer.out
