"""The tree of errors: one exit code each."""

from __future__ import annotations

import pytest

from dougong.core import errors

CODES = {
    errors.CheckError: 1,
    errors.UsageError: 2,
    errors.RecipeError: 2,
    errors.MissingExtra: 2,
    errors.FileError: 3,
    errors.UntrustedError: 3,
    errors.ResourceError: 4,
    errors.NonFiniteError: 5,
    errors.PeerError: 6,
    errors.IsolationError: 7,
    errors.PrivacyError: 8,
    errors.Preempted: 75,
}


@pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.__name__)
def test_each_error_has_the_exit_code_of_the_house(kind: type[errors.DougongError]) -> None:
    assert kind.exit_code == CODES[kind]
    assert kind.name.startswith("E-")


def test_every_error_is_in_the_table() -> None:
    def below(kind: type) -> set[type]:
        return {kind, *(inner for sub in kind.__subclasses__() for inner in below(sub))}

    own = {kind for kind in below(errors.DougongError) if kind.__module__ == "dougong.core.errors"}
    assert own - {errors.DougongError} == set(CODES)


def test_a_recipe_error_keeps_its_complaints_apart() -> None:
    error = errors.RecipeError(["a is wrong.", "b is wrong."])
    assert error.complaints == ["a is wrong.", "b is wrong."]
    assert str(error) == "a is wrong.\nb is wrong."


def test_a_missing_extra_says_what_to_type() -> None:
    assert "pip install 'dougong[hub]'" in str(errors.MissingExtra("reading the hub", "hub"))


def test_a_short_name_may_be_given() -> None:
    assert errors.UsageError("x", name="E-PATH").name == "E-PATH"
    assert errors.UsageError("x").name == "E-USAGE"
