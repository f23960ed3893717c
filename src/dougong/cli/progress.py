"""What is seen while training: a bar on a terminal, plain lines elsewhere; always on standard error.

Knows the lines that a run says and the reports that it gives; computes nothing.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dougong.core.log import listening

Observer = Callable[[Any], None]


@contextlib.contextmanager
def shown_progress() -> Iterator[Sequence[Observer]]:
    """Shows progress within this context; gives the observers that the run is to call.

    On a terminal the lines of steps become the text of a bar; all other lines are printed above it.
    """
    if not sys.stderr.isatty():
        yield ()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True, highlight=False)
    columns = (BarColumn(bar_width=30), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("preparing", total=None)

        def hear(text: str) -> None:
            step = re.match(r"step [\d,]+/([\d,]+)  ", text)
            if step is not None:
                bar.update(task, description=text, total=int(step[1].replace(",", "")))
            if step is None or "validation" in text:
                console.print(text, markup=False, soft_wrap=True)

        def observe(report: Any) -> None:
            bar.update(task, completed=report.step)

        with listening(hear):
            yield (observe,)
