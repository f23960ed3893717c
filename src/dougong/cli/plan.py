"""`dougong plan`: parses, calls, prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Optional

import typer

from dougong.cli.options import Json, Overrides

_DEVICES = "Plan for so many accelerators, such as 8xh100 or 1024xa100-80gb: which layouts fit, the best first."
_ADVISE = "Also search for the largest batch and the longest context that fit here, and what each lever buys."
_DIAGRAM = "Also draw the architecture into this file (.svg)."
_CALIBRATE = "Measure this machine for some 20 seconds first, so that seconds are told within a quarter."


def plan(
    source: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="RECIPE", help="A shipped recipe's name, a file, a run folder, or YAML in quotes."),
    ] = None,
    devices: Annotated[Optional[str], typer.Option("--devices", metavar="NxNAME", help=_DEVICES)] = None,  # noqa: UP045
    advise: Annotated[bool, typer.Option("--advise", help=_ADVISE)] = False,
    calibrate: Annotated[bool, typer.Option("--calibrate", help=_CALIBRATE)] = False,
    diagram: Annotated[Optional[str], typer.Option("--diagram", metavar="FILE", help=_DIAGRAM)] = None,  # noqa: UP045
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Tell what a recipe will take before any data is read: parameters, operations, memory, time, money.

    Nothing is executed: the model is run with tensors that have shapes and no numbers. Seconds are told for this
    machine (well after --calibrate) and by data sheet for accelerators; after a run, report.html has what was
    predicted beside what was measured.
    """
    from dougong.cli.output import show_json
    from dougong.core import log
    from dougong.core.errors import UsageError

    if source is None and not calibrate:
        raise UsageError("plan needs a recipe, or --calibrate. Try: dougong plan gpt-stdlib")
    if source is not None:
        from dougong.recipe import load

        load(source, overrides or ())  # what is wrong in it is told before torch is imported, which takes longer
    from dougong import run

    if calibrate:
        log.say("measuring this machine")
        measured = run.calibrated()
        log.say(f"measured {measured.machine} in {measured.seconds:.0f} s")
        if source is None:
            show_json({"machine": measured.machine, "seconds": measured.seconds}) if json else None
            return
    assert source is not None
    if diagram is not None:
        log.say(f"drawn: {run.draw(source, diagram, overrides=overrides or ())}")
    found = run.plan(source, devices=devices, advise=advise, overrides=overrides or ())
    if json:
        show_json(found.as_dict())
    else:
        print("\n".join(lines(found)))


def lines(found: Any) -> list[str]:
    """Returns a plan as lines of text."""
    sections = [_model(found), _operations(found)]
    if found.here is None and found.layouts is None:
        sections.append(
            [
                f"memory  weights, gradients and optimizer state take {_bytes(found.state_bytes)}, more than this "
                "machine has. Plan for others with --devices 8xh100."
            ]
        )
    sections += [_here(found.here)] if found.here else []
    sections += [_inference(found.inference)] if found.inference else []
    sections += [_devices(found)] if found.devices else []
    sections += [_layouts(found)] if found.layouts else []
    sections += [_scaling(found)] if found.scaling else []
    sections += [_advice(found.advice)] if found.advice else []
    return [line for section in sections for line in (*section, "")][:-1]


def _model(found: Any) -> list[str]:
    counted = any(block.forward_flops for block in found.tree.blocks)
    rows = [("", "parameters", "forward, per sample" if counted else "")]
    for depth, block in _walk(found.tree, 0):
        times = f"  x {block.times}" if block.times > 1 else ""
        name = f"{'  ' * depth}{block.name or found.recipe} ({block.kind}){times}"
        rows.append((name, f"{block.parameters:,}", _flops(block.forward_flops) if block.forward_flops else ""))
    inside = sum(block.forward_flops for block in found.tree.blocks)
    if counted and found.tree.forward_flops > inside:
        rows.append(("  head and loss", "", _flops(found.tree.forward_flops - inside)))
    return _table(rows)


def _walk(block: Any, depth: int) -> Iterator[tuple[int, Any]]:
    """Yields the blocks that a person wants to see: a list of one kind as that kind, three levels deep."""
    while len(block.blocks) == 1 and block.blocks[0].parameters == block.parameters and depth:
        name, times = f"{block.name}.{block.blocks[0].name}".strip("."), block.blocks[0].times
        block = type(block)(
            name, block.blocks[0].kind, times, block.parameters, block.forward_flops, block.blocks[0].blocks
        )
    yield depth, block
    for inner in block.blocks if depth < 3 else ():
        if inner.parameters or inner.forward_flops:
            yield from _walk(inner, depth + 1)


def _operations(found: Any) -> list[str]:
    parts = ", ".join(f"{_flops(value)} {phase}" for phase, value in found.flops_per_sample.items() if value)
    rows = [
        f"operations  {parts} per sample; {_flops(found.flops_per_step)} a step of {found.batch_size:,}; "
        f"{_flops(found.flops_per_step * found.steps)} in {found.steps:,} steps ({_count(found.items)} {found.item})"
    ]
    if found.trained != found.parameters:
        share = found.trained / found.parameters
        rows.append(f"trained     {found.trained:,} of {found.parameters:,} parameters ({share:.2%}); the rest stays")
    if found.uncounted:
        rows.append(f"    not counted, as no formula is known: {', '.join(found.uncounted)}")
    return rows


def _here(here: Any) -> list[str]:
    held = here.memory
    low, high = here.memory_interval.low * held.peak, here.memory_interval.high * held.peak
    parts = [(name, size) for name, size in vars(held).items() if size]
    there = f" of {_bytes(here.there)}" if here.there else ""
    time = here.time
    rows = [
        f"on this machine ({here.machine}), products in {here.dtype}",
        f"  memory    {_bytes(held.peak)}{there} at the peak of a step ({_bytes(low)} to {_bytes(high)})",
        "            " + ", ".join(f"{_bytes(size)} {name}" for name, size in parts),
        f"  a step    {_seconds(time.middle)} ({_seconds(time.low)} to {_seconds(time.high)}), "
        + ", ".join(f"{value / time.middle:.0%} {name}" for name, value in list(time.parts.items())[:4]),
    ]
    runs = here.time_interval.runs
    if not here.calibrated:
        rows.append("            from its peak and bandwidth alone: --calibrate measures more, and tells it better")
    elif runs:
        rows.append(f"            narrowed by {runs} earlier run{'s' * (runs > 1)} on this machine")
    return rows


def _inference(found: Sequence[Any]) -> list[str]:
    rows = [("in use", "weights", "workspace", "a token's cache", "a token's operations", "and bytes")]
    for use in found:
        made = use.generation
        more = (_bytes(made.cache_bytes_per_token), _flops(made.flops), _bytes(made.bytes)) if made else ("", "", "")
        rows.append((f"  {use.dtype}", _bytes(use.weight_bytes), _bytes(use.workspace_bytes), *more))
    if not any(use.generation for use in found):
        return _table([row[:3] for row in rows])
    return _table(rows)


def _devices(found: Any) -> list[str]:
    rows = [("on one accelerator", "memory", "a step", "the training", "dollars", "kWh")]
    for one in found.devices:
        size = _bytes(one.bytes) if one.fits else f"{_bytes(one.bytes)}, does not fit"
        rows.append(
            (
                f"  {one.name}",
                size,
                _seconds(one.seconds),
                _seconds(one.hours * 3600),
                f"{one.dollars:,.2f}",
                f"{one.kilowatt_hours:,.2f}",
            )
        )
    return [*_table(rows), "  by data sheet, within a factor of 2; prices are assumptions (docs/planning.md)"]


def _layouts(found: Any) -> list[str]:
    search, steps = found.layouts, found.steps
    device = search.hardware
    head = f"{search.count:,} x {device.name}, products at {search.efficiency:.0%} of peak, batch {search.batch_size:,}"
    if not search.fitting:
        rows = [head, "  no layout fits"]
    else:
        table = [("  layout", "memory", "a step", "bubble", "sent", "of peak", "the training", "dollars")]
        for one in search.fitting[:8]:
            seconds = one.time.total
            table.append(
                (
                    f"  {one.layout}",
                    _bytes(one.memory.total),
                    _seconds(seconds),
                    f"{one.time.bubble / seconds:.0%}",
                    _bytes(sum(one.sent.values())),
                    f"{one.utilization:.0%}",
                    _seconds(seconds * steps),
                    f"{seconds * steps / 3600 * search.count * device.dollars_per_hour:,.0f}",
                )
            )
        rows = [head, *_table(table)]
        if len(search.fitting) > 8:
            rows.append(f"  and {len(search.fitting) - 8} more that fit")
    if search.refused:
        rows.append(f"  {len(search.refused)} do not fit; the nearest:")
        rows += [f"    {refused.layout}: {refused.reason}" for refused in search.refused[:4]]
    return rows


def _scaling(found: Any) -> list[str]:
    best = found.scaling["optimum"]
    far = " (extrapolated)" if best["extrapolated"] else ""
    needed = _count(found.scaling["tokens_needed"])
    return [
        f"scaling     compute-optimal for {_count(found.parameters)} parameters: {needed} tokens; "
        f"this recipe reads {_count(found.scaling['tokens'])}",
        f"            its operations are best spent on {_count(best['parameters'])} parameters and "
        f"{_count(best['tokens'])} tokens{far} ({best['source'].partition(':')[0]})",
    ]


def _advice(advice: Any) -> list[str]:
    rows = [f"fits here   a batch of {advice.batch.value:,} in one piece"]
    if advice.context is not None:
        rows[0] += f"; a context of {advice.context.value:,} tokens"
    table = [("  lever", "memory", "saves", "operations", "largest batch", "")]
    for lever in advice.levers:
        how = f"--set {lever.option}" if lever.option else "(not yet an option of training)"
        figures = (_bytes(lever.bytes), _bytes(lever.saved), f"x {lever.flops:.2f}", f"{lever.largest_batch:,}")
        table.append((f"  {lever.name}", *figures, how))
    return [*rows, *_table(table)]


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Returns rows as aligned lines: the first column to the left, all others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            f"{cell:<{width}}" if not column or cell.startswith(("--", "(")) else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _flops(value: float | int) -> str:
    units = (("ZFLOP", 1e21), ("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6))
    return _scaled(value, units, "kFLOP", 1e3)


def _bytes(value: float | int) -> str:
    return _scaled(value, (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)), "kB", 1e3)


def _count(value: float | int) -> str:
    return _scaled(value, (("trillion", 1e12), ("billion", 1e9), ("million", 1e6)), "thousand", 1e3)


def _scaled(value: float | int, units: Sequence[tuple[str, float]], least: str, size: float) -> str:
    """Returns a number with three digits and its unit."""
    for unit, scale in units:
        if abs(value) >= scale:
            return f"{_digits(value / scale)} {unit}"
    return f"{_digits(value / size)} {least}"


def _digits(value: float | int) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _seconds(value: float | int) -> str:
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if value >= 2 * size:
            return f"{_digits(value / size)} {unit}"
    return f"{_digits(value)} s" if value >= 1 else f"{_digits(1000 * value)} ms"
