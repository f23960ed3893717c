"""What runs inside the walls: a program in one process, its tests in another, and what is said between them (Linux).

Started by `exam.py` as a script of its own, twice, with the standard library alone; the two have no pipe, file or
memory in common, and each talks with the parent alone. The program is hostile. It is asked to compute, and what it
gives back becomes plain data before it leaves; a test compares that data in its own process, where nothing of the
program ever ran: neither an `__eq__` of its own nor a changed builtin reaches it, and neither does it see a test.
"""

from __future__ import annotations

import builtins
import json
import os
import random
import sys

TYPE_CHECKING = False  # it starts once for every program: what is imported here is waited for each time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType
    from typing import IO, Any, NoReturn

# Raised by a function that a test hands to `map` or `all`, these two would end the test early, as if it had passed.
_ENDS = ("StopIteration", "StopAsyncIteration")


class ProgramError(Exception):
    """The program raised something that is no exception of Python's own."""


class Elsewhere:
    """A thing of the program's that is no data: a function, an object of a class of its own. It equals itself alone.

    Args:
        place: `["name", ...]` or `["object", ...]`, as it is packed.
        ask: Puts a question to the program and returns the answer.
    """

    def __init__(self, place: list[Any], ask: Callable[..., Any]):
        object.__setattr__(self, "_place", place)
        object.__setattr__(self, "_ask", ask)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Asks for the value of a function of the program's."""
        return self._ask("call", self, list(arguments), named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", self, name, value)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._ask("list", self))


def main() -> None:
    """Plays one of two parts: `program` or `tests`.

    Questions come through what was the standard input and answers go through what was the standard output; the code
    that is run has an empty input, and its prints go to the standard error.
    """
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    part = {"program": serve, "tests": examine}[sys.argv[1]]
    while line := requests.readline():
        first = json.loads(line)
        random.seed(first["seed"])
        part(first, requests, answers)


def serve(first: dict[str, Any], requests: IO[bytes], answers: IO[bytes]) -> None:
    """Runs the program, then answers questions about what it defined."""
    module = type(sys)("program")
    sys.modules["program"] = module
    objects: list[Any] = []
    failure: BaseException | None = None
    try:
        # What this file imports from __future__ is not for the program.
        exec(compile(first["program"], "program", "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        failure = error
    for line in requests:
        question = json.loads(line)
        reply = {"id": question["id"]}
        try:
            if failure is not None:
                raise failure
            words = [unpack(word, lambda place: _found(place, module, objects)) for word in question["words"]]
            value = _done(question["verb"], *words)
            reply["value"] = pack(value, lambda other: _kept(other, objects))
        except BaseException as error:
            reply["raised"] = [type(error).__name__, _text_of(error)]
        _say(answers, json.dumps(reply))


def _done(verb: str, thing: Any, *words: Any) -> Any:
    """Does what is asked of a thing of the program's."""
    if verb == "call":
        return thing(*words[0], **words[1])
    if verb == "get":
        return getattr(thing, words[0])
    return list(thing) if verb == "list" else setattr(thing, words[0], words[1])


def _found(place: list[Any], module: ModuleType, objects: list[Any]) -> Any:
    if place[0] == "object":
        return objects[place[1]]
    if place[1] not in module.__dict__:
        raise NameError(f"name {place[1]!r} is not defined")
    return module.__dict__[place[1]]


def _kept(other: Any, objects: list[Any]) -> list[Any]:
    objects.append(other)
    return ["object", len(objects) - 1]


def _text_of(error: BaseException) -> str:
    try:
        return str(error)[:200]
    except BaseException:
        return ""


def examine(first: dict[str, Any], requests: IO[bytes], answers: IO[bytes]) -> None:
    """Runs the tests, in which the program's names stand for questions to it, and tells the verdict."""
    raised: list[str] = []

    def tell(kind: str, reason: str = "") -> None:
        _say(answers, first["nonce"] + json.dumps([kind, reason[:300]]))

    def end(kind: str, reason: str) -> NoReturn:
        tell(kind, reason)
        os._exit(0)  # no test that catches everything can go on after this

    def ask(verb: str, *words: Any) -> Any:
        key = os.urandom(16).hex()
        question = {"id": key, "verb": verb, "words": [pack(word, _place_of) for word in words]}
        _say(answers, json.dumps(question))
        try:
            reply = json.loads(requests.readline())
            fair = reply["id"] == key and len(reply) == 2
            how = reply.get("raised")
            value = None if how else unpack(reply["value"], lambda place: Elsewhere(place, ask))
            kind, reason = map(str, how) if how else ("", "")
        except Exception as error:
            end("forged", f"the answer is none: {type(error).__name__}")
        if not fair:
            end("forged", "the answer is to another question")
        if kind == "MemoryError":
            end("memory", "the program had no more memory")
        if how:
            raised.append(kind)
            raise _raisable(kind, reason)
        return value

    try:
        setup, tests, known = _compiled(first, ask)
    except (SyntaxError, ValueError) as error:
        return tell("suite", str(error))
    try:
        exec(setup, known)
        known.update({name: Elsewhere(["name", name], ask) for name in first["names"]})
        exec(tests, known)
    except AssertionError as error:
        return tell("failed", _text_of(error))
    except BaseException as error:
        of = "the program" if type(error).__name__ in raised or isinstance(error, ProgramError) else "the test"
        return tell("error", f"{of} raised {type(error).__name__}: {_text_of(error)}")
    return tell("passed")


def _compiled(first: dict[str, Any], ask: Callable[..., Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Returns the suite's own code and tests, and the names that they know.

    Where the suite names no function to be tested, every name that nothing else defines is the program's.
    """
    import ast

    try:
        setup = ast.parse(first["setup"])
    except SyntaxError:  # it ends with the head of the function that is to be written
        setup = ast.parse(first["setup"].rstrip() + "\n    pass\n")
    tests = ast.parse(first["tests"])
    known: dict[str, Any] = {"__name__": "tests"}
    if not first["names"]:
        names = {node.id for tree in (setup, tests) for node in ast.walk(tree) if isinstance(node, ast.Name)}
        free = sorted(name for name in names if not hasattr(builtins, name))
        known.update({name: Elsewhere(["name", name], ask) for name in free})
    first_code, last_code = (compile(tree, "tests", "exec", dont_inherit=True) for tree in (setup, tests))
    return first_code, last_code, known


def _place_of(thing: Any) -> list[Any]:
    if isinstance(thing, Elsewhere):
        return object.__getattribute__(thing, "_place")
    raise TypeError(f"a test hands over a {type(thing).__name__}, which is no plain data")


def _raisable(kind: str, reason: str) -> Exception:
    """Returns the exception that the program raised, as one of this process."""
    found = getattr(builtins, kind, None)
    if isinstance(found, type) and issubclass(found, Exception) and kind not in _ENDS:
        try:
            return found(reason)
        except TypeError:
            pass
    return ProgramError(f"{kind}: {reason}")


def pack(value: Any, other: Callable[[Any], list[Any]]) -> list[Any]:
    """Returns a value as JSON can say it, exactly; what is no plain data is packed by `other`."""
    if value is None or isinstance(value, bool | str):
        return ["plain", value if value is None or isinstance(value, bool) else str.__str__(value)]
    if isinstance(value, int):
        return ["int", hex(value)]  # in tens, a long one takes a time that grows with the square
    if isinstance(value, float):
        return ["float", float.hex(value)]
    if isinstance(value, complex):
        return ["complex", float.hex(value.real), float.hex(value.imag)]
    if isinstance(value, bytes | bytearray):
        return ["bytes", value.hex()]
    for name, kind in (("list", list), ("tuple", tuple), ("set", set), ("frozenset", frozenset)):
        if isinstance(value, kind):
            return [name, [pack(item, other) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[pack(key, other), pack(item, other)] for key, item in value.items()]]
    return other(value)


def unpack(packed: list[Any], other: Callable[[list[Any]], Any]) -> Any:
    """Returns what was packed; what is no plain data is found by `other`."""
    name, *rest = packed
    if name == "plain" and (rest[0] is None or isinstance(rest[0], bool | str)):
        return rest[0]
    if name == "int":
        return int(rest[0], 16)
    if name == "float":
        return float.fromhex(rest[0])
    if name == "complex":
        return complex(float.fromhex(rest[0]), float.fromhex(rest[1]))
    if name == "bytes":
        return bytes.fromhex(rest[0])
    if name in ("list", "tuple", "set", "frozenset"):
        return getattr(builtins, name)([unpack(item, other) for item in rest[0]])
    if name == "dict":
        return {unpack(key, other): unpack(item, other) for key, item in rest[0]}
    if name in ("name", "object") and len(rest) == 1:
        return other([name, rest[0]])
    raise ValueError("this is nothing that was packed")


def _say(answers: IO[bytes], line: str) -> None:
    raw = (line + "\n").encode()
    while raw:
        raw = raw[answers.write(raw) :]


if __name__ == "__main__":
    main()
