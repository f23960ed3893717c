"""`dougong generate`: parses, calls, prints."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Optional

import typer

from dougong.cli.options import Json, RunFolder, Source, integer, number

Integer = Optional[int]  # noqa: UP045
Number = Optional[float]  # noqa: UP045
Text = Optional[str]  # noqa: UP045


def _integer(flag: str, text: str) -> Any:
    return typer.Option(flag, metavar="INTEGER", parser=integer, help=text)


def _number(flag: str, text: str) -> Any:
    return typer.Option(flag, metavar="NUMBER", parser=number, help=text)


def generate(
    source: Source,
    prompts: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="[PROMPT]...", help="What to go on from; absent: standard input, or nothing."),
    ] = None,
    run: RunFolder = None,
    max_new_tokens: Annotated[Integer, _integer("--max-new-tokens", "The most tokens to generate.")] = None,
    temperature: Annotated[Number, _number("--temperature", "0 takes the likeliest token each time.")] = None,
    top_k: Annotated[Integer, _integer("--top-k", "Sample from the k likeliest tokens only.")] = None,
    top_p: Annotated[Number, _number("--top-p", "Sample from the fewest tokens that have this probability.")] = None,
    min_p: Annotated[Number, _number("--min-p", "Sample from tokens this probable beside the likeliest.")] = None,
    repetition_penalty: Annotated[Number, _number("--repetition-penalty", "Above 1: repeat less.")] = None,
    num_beams: Annotated[Integer, _integer("--num-beams", "Above 1: beam search.")] = None,
    length_penalty: Annotated[Number, _number("--length-penalty", "Of beam search; above 0 favours long.")] = None,
    suffix: Annotated[Text, typer.Option("--suffix", metavar="TEXT", help="What comes after: fill in between.")] = None,
    stop: Annotated[Optional[list[str]], typer.Option("--stop", metavar="TEXT", help="End before this text.")] = None,  # noqa: UP045
    seed: Annotated[Integer, _integer("--seed", "Decides every draw.")] = None,
    precision: Annotated[str, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    json: Json = False,
) -> None:
    """Let a trained model write: the run's, a recipe's newest run's, or that of any Hugging Face folder.

    One prompt is streamed; several are written together, each when all are done. With --suffix a model that was trained
    to fill in the middle writes what is between the prompt and that text.
    """
    given: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "num_beams": num_beams,
        "length_penalty": length_penalty,
        "stop": tuple(stop) if stop else None,
        "seed": seed,
    }
    options = {name: value for name, value in given.items() if value is not None}
    _write(_open(source, run, precision, device, options), _prompts(prompts), suffix, options, json)


def _prompts(given: list[str] | None) -> list[str]:
    if given:
        return given
    if sys.stdin.isatty():
        return [""]
    try:
        return [sys.stdin.read()]
    except UnicodeDecodeError as error:
        from dougong.core.errors import FileError

        raise FileError(f"standard input must be UTF-8 text, but is not: {error}. Give text.") from error


def _open(source: str, run: str | None, precision: str, device: str, options: dict[str, Any]) -> Any:
    """Returns the model; what is wrong with the options is said before it is loaded."""
    from dougong.core.config import try_validate
    from dougong.core.errors import UsageError
    from dougong.infer.config import GenerateConfig
    from dougong.run.generation import load_writer

    _, complaints = try_validate(GenerateConfig, options)
    if complaints:
        raise UsageError("\n".join(f"--{complaint.text.replace('_', '-', 1)}" for complaint in complaints))
    return load_writer(source, run=run, precision=precision, device=device)


def _write(model: Any, prompts: list[str], suffix: str | None, options: dict[str, Any], json: bool) -> None:
    from dougong.cli.output import show_json, write

    end = suffix or ""
    if json:
        done = model.complete(prompts, suffix, **options)
        keys, given = ("text", "tokens", "finish_reason"), {} if suffix is None else {"suffix": suffix}
        answers = ({key: getattr(completion, key) for key in keys} for completion in done)
        show_json([{"prompt": prompt, **given, **each} for prompt, each in zip(prompts, answers, strict=True)])
    elif len(prompts) == 1:
        pieces = model.stream(prompts[0], suffix, **options)
        write(prompts[0])
        for piece in pieces:
            write(piece)
        write(f"{end}\n")
    else:
        for prompt, text in zip(prompts, model.generate(prompts, suffix, **options), strict=True):
            write(f"{prompt}{text}{end}\n\n")
