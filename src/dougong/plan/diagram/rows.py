"""What a recipe says of the parts of a model that is composed in it: which are rows or nest others, and their names.

A row is a module with a list `stages` of configs, one for each of its parts. Knows no concrete stage.
"""

from __future__ import annotations

from torch import nn

from dougong.core.config import Form
from dougong.plan.diagram.labels import kind_of
from dougong.plan.diagram.trace import Event

# The words of stages without weights, whose function alone is seen in a run, by the sort of the function.
WORDS = {"activation": ("activate",), "pool": ("pool", "last")}


def forms_of(module: nn.Module | None) -> list[Form]:
    """Returns the configs of a row's parts; none where it is no row."""
    found = getattr(module, "stages", None)
    described = isinstance(found, list) and all(isinstance(form, Form) for form in found)
    if module is None or not isinstance(found, list) or not described:
        return []
    return found if len(found) == len(module._modules) else []


def form_of(root: nn.Module, path: str) -> Form | None:
    """Returns the config of a part of a row, by its path; None for any other module."""
    around, _, name = path.rpartition(".")
    row = root.get_submodule(around)
    forms = forms_of(row)
    return forms[list(row._modules).index(name)] if forms else None


def is_row(module: nn.Module | None) -> bool:
    """Tells whether a module does no more than put others in a row."""
    return isinstance(module, nn.Sequential) or bool(forms_of(module))


def is_nest(root: nn.Module, event: Event) -> bool:
    """Tells whether a part of a row is made of rows itself, as residual and parallel branches and repetitions are."""
    assert event.module is not None
    return form_of(root, event.name) is not None and any(forms_of(part) for part in event.module.children())


def given_name(root: nn.Module, event: Event) -> str:
    """Returns the name that the recipe gives to a part of a row, or to the stage of which a layer is one of several."""
    form = form_of(root, event.name) if event.name else None
    around = event.name.rpartition(".")[0]
    if form is None and around and isinstance(root.get_submodule(around), nn.ModuleList) and not is_row(event.module):
        form = form_of(root, around)
    return (form.given_name if form else None) or ""


def names_of_steps(call: Event) -> dict[int, str]:
    """Returns the given names of those functions in a row that are stages without weights, by the event's identity."""
    found: dict[int, str] = {}
    if call.module is None:
        return found
    forms = list(zip(call.module._modules, forms_of(call.module), strict=False))
    for event in call.events:
        if event.module is not None:
            name = event.name.removeprefix(f"{call.name}.").partition(".")[0]
            names = [key for key, _ in forms]
            forms = forms[names.index(name) + 1 :] if name in names else forms
            continue
        words = WORDS.get(kind_of(event), ())
        place = next((i for i, (_, form) in enumerate(forms) if form.word in words), None)
        if place is not None:
            if given := forms[place][1].given_name:
                found[id(event)] = given
            forms = forms[place + 1 :]
    return found
