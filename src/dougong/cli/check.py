"""`dougong check`: parses, calls, prints."""

from __future__ import annotations

from typing import Any

from dougong.cli.options import Json, Overrides, Source


def check(source: Source, overrides: Overrides = None, json: Json = False) -> None:
    """Prove a recipe before a long run, on its own model and data, in about a minute.

    Each line says what was measured and what is allowed; what fails is named below its line. The exit code is 0, or
    that of the first failure: 2 the recipe, 3 the data, 4 the memory, 5 a number that is not finite, 6 a process that
    failed, 1 all else.
    """
    from dougong.cli.output import show_json
    from dougong.recipe import load

    load(source, overrides or ())  # what is wrong in it is told before torch is imported, which takes longer
    from dougong.run import check as check_recipe

    found = check_recipe(source, overrides=overrides or ())
    if json:
        show_json(found.as_dict())
    else:
        for line in table(found.results):
            print(line)
        print(f"{found.recipe}: {_total(found)}")
    found.require()


def table(results: Any) -> list[str]:
    """Returns the lines of a table, with a sentence below what failed or was skipped."""
    rows = [("check", "measured", "allowed", "verdict")]
    rows += [(r.name.replace("_", " "), r.measured, r.allowed, r.verdict) for r in results]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    found = [lines[0]]
    for line, result in zip(lines[1:], results, strict=True):
        found += [line, f"    {result.detail}"] if result.detail else [line]
    return found


def _total(found: Any) -> str:
    count = {verdict: sum(r.verdict == verdict for r in found.results) for verdict in ("passed", "skipped", "failed")}
    words = ", ".join(f"{number} {verdict}" for verdict, number in count.items() if number or verdict == "passed")
    return f"{words}, in {found.seconds:.0f} s"
