"""`dougong evaluate`: parses, calls, prints."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from dougong.cli.options import Json, Overrides, RunFolder, integer, number

Text = Optional[str]  # noqa: UP045
Integer = Optional[int]  # noqa: UP045
Number = Optional[float]  # noqa: UP045
_PANEL = "Of code models"


def _text(flag: str, metavar: str, text: str) -> Any:
    return typer.Option(flag, metavar=metavar, help=text, rich_help_panel=_PANEL)


def _integer(flag: str, text: str) -> Any:
    return typer.Option(flag, metavar="INTEGER", parser=integer, help=text, rich_help_panel=_PANEL)


def _number(flag: str, text: str) -> Any:
    return typer.Option(flag, metavar="NUMBER", parser=number, help=text, rich_help_panel=_PANEL)


def evaluate(
    source: Annotated[
        Text, typer.Argument(metavar="RECIPE", help="A recipe's name or file, a run folder; absent with --solutions.")
    ] = None,
    run: RunFolder = None,
    overrides: Overrides = None,
    suite: Annotated[Text, _text("--suite", "FILE", "Problems in HumanEval's or MBPP's form: score code.")] = None,
    solutions: Annotated[Text, _text("--solutions", "FILE", "Score these completions instead of a model's.")] = None,
    samples: Annotated[Integer, _integer("--samples", "Programs to write for each problem; absent: 1.")] = None,
    k: Annotated[Text, _text("--k", "LIST", "Of how many programs one is to pass, such as 1,10; absent: 1.")] = None,
    temperature: Annotated[Number, _number("--temperature", "Absent: 0 for one sample, 0.8 for more.")] = None,
    top_p: Annotated[Number, _number("--top-p", "Sample from the fewest tokens that have this probability.")] = None,
    max_new_tokens: Annotated[Integer, _integer("--max-new-tokens", "The most of a program; absent: 512.")] = None,
    seed: Annotated[Integer, _integer("--seed", "Decides every draw.")] = None,
    workers: Annotated[Integer, _integer("--workers", "Programs examined at a time; absent: one a core.")] = None,
    timeout: Annotated[Number, _number("--timeout", "Seconds of a program and its tests; absent: 10.")] = None,
    to: Annotated[Text, _text("--to", "FOLDER", "Where samples and verdicts are kept, to go on with.")] = None,
    json: Json = False,
) -> None:
    """Evaluate a run on all its validation data: a text beside what gzip and xz make of it, and each class apart.

    Of a recipe, the newest run is taken, or the one that --run names. With --suite, programs that the model writes, or
    given --solutions, run in isolation before their tests, and pass@k is printed.
    """
    options = {
        "samples": samples,
        "k": k,
        "temperature": temperature,
        "top_p": top_p,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "workers": workers,
        "timeout": timeout,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if suite is not None:
        _refuse("with --suite", {"--set": overrides})
        _evaluate_code(source, {"suite": suite, "solutions": solutions, "run": run, "to": to}, given, json)
        return
    flags = {"--" + name.replace("_", "-"): value for name, value in options.items()}
    _refuse("without --suite", {"--solutions": solutions, "--to": to, **flags})
    _evaluate(source, run, overrides, json)


def _refuse(where: str, flags: dict[str, Any]) -> None:
    """Refuses options that would have no effect."""
    from dougong.core.errors import UsageError

    if idle := [flag for flag, value in flags.items() if value not in (None, [])]:
        raise UsageError(f"{idle[0]} has no effect {where}. Leave it out.")


def _evaluate(source: str | None, run: str | None, overrides: list[str] | None, json: bool) -> None:
    from dougong.cli.output import show_details, show_figures, show_json
    from dougong.core.errors import UsageError
    from dougong.recipe import load

    if source is None:
        raise UsageError("dougong evaluate needs RECIPE, but it is absent. See: dougong evaluate --help")
    load(source)  # what is wrong in it is told before torch is imported, which takes longer
    from dougong.run.evaluation import evaluate_in_full

    figures, details = evaluate_in_full(source, run=run, overrides=overrides or ())
    if json:
        show_json({**figures, **details})
        return
    show_figures(figures)
    show_details(details)


def _evaluate_code(source: str | None, places: dict[str, Any], options: dict[str, Any], json: bool) -> None:
    from dougong.cli.output import show_json, show_rows
    from dougong.core.config import try_validate
    from dougong.core.errors import UsageError

    if "k" in options:
        try:
            options["k"] = tuple(int(word) for word in options["k"].split(","))
        except ValueError:
            raise UsageError(f"--k must be numbers with commas, such as 1,10, but is {options['k']!r}.") from None
    from dougong.run.suite import CodeConfig, evaluate_code

    _, complaints = try_validate(CodeConfig, options)
    if complaints:
        raise UsageError("\n".join(f"--{complaint.text.replace('_', '-', 1)}" for complaint in complaints))
    score = evaluate_code(source, **places, **options)
    if json:
        show_json(score)
        return
    print(f"{score['suite']}: {score['problems']} problems, {score['programs']} programs")
    for name, value in score.items():
        if name.startswith("pass@"):
            print(f"  {name:<24}{value:>10.4f}")
    show_rows([{"verdict": kind, "programs": count} for kind, count in score["verdicts"].items()])
