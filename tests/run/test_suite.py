"""A code model's score is that of its programs: sampled by law 1, judged by data alone, gone on with after a kill."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import dougong
from dougong.cli import app
from dougong.cli.failure import run_guarded
from dougong.core.errors import DougongError, FileError, ResourceError, UsageError
from dougong.run import exam
from dougong.run.exam import Examiner, allowance
from dougong.run.problems import Problem, read_solutions, read_suite
from dougong.run.suite import _Lines
from tests.conftest import shared
from tests.faults import hostile, programs
from tests.faults.programs import examined, problem, write_lines

MBPP = {
    "task_id": 927,
    "text": "Write a function to calculate the height of the given binary tree.",
    "code": (
        "class Node:\r\n    def __init__(self, data):\r\n        self.left = self.right = None\r\n"
        "def height(node):\r\n    if node is None:\r\n        return 0\r\n"
        "    return 1 + max(height(node.left), height(node.right))"
    ),
    "test_list": ["assert (height(root)) == 3", "assert math.isclose(height(None), 0)", "assert height(Node(1)) == 1"],
    "test_setup_code": "import math\r\nroot = Node(1)\r\nroot.left = Node(2)\r\nroot.left.left = Node(4)\r\n",
    "challenge_test_list": [],
}


def test_the_references_of_humaneval_score_one_and_stubs_score_nothing(tmp_path: Path) -> None:
    path = shared("data/code/humaneval/HumanEval.jsonl.gz")
    suite = read_suite(path)
    assert len(suite.problems) == 164
    for name, expected in (("reference", 1.0), ("stub", 0.0)):
        rows = [
            {"task_id": each.task_id, "completion": each.reference if name == "reference" else "    pass\n"}
            for each in suite.problems
        ]
        score = dougong.evaluate_code(suite=path, solutions=write_lines(tmp_path / name, rows), workers=2, timeout=60.0)
        assert (score["pass@1"], score["problems"], score["programs"]) == (expected, 164, 164), score


def mbpp(folder: Path, **changes: Any) -> Problem:
    return read_suite(write_lines(folder / "mbpp.jsonl", [{**MBPP, **changes}])).problems[0]


def test_a_problem_of_mbpps_form_may_use_objects_of_the_program(tmp_path: Path) -> None:
    tree = mbpp(tmp_path)
    assert tree.task_id == "927"
    assert tree.prompt == f'"""\n{MBPP["text"]}\n' + "\n".join(MBPP["test_list"]) + '\n"""\n'
    wrong = tree.reference.replace("1 + max", "2 + max")
    without = tree.reference.replace("class Node", "class Other")
    with Examiner(allowance(20)) as examiner:
        verdicts = [examiner.examine(tree, tree.program(text)) for text in (tree.reference, wrong, without)]
    assert [verdict.kind for verdict in verdicts] == ["passed", "failed", "error"]
    assert verdicts[2].reason == "the program raised NameError: name 'Node' is not defined"


def test_a_problem_of_sanitized_mbpp_has_its_imports(tmp_path: Path) -> None:
    given = {"prompt": "p", "test_imports": ["import cmath"], "test_list": ["assert f() == cmath.sqrt(-1)"]}
    row = {name: value for name, value in MBPP.items() if name not in ("text", "test_setup_code")} | given
    found = read_suite(write_lines(tmp_path / "suite.jsonl", [row])).problems[0]
    with Examiner(allowance(20)) as examiner:
        assert examiner.examine(found, "def f():\n    return 1j\n").kind == "passed"


VALUES = (
    "[1, (2.5, -0.0), {3, 4}, frozenset({5}), {'a': [None, True], 2: b'x', (1, 2): 3j}, 'é\\ud800\\n', 10**5000]",
    "[float('inf'), 1e-310, 2**-1074, bytearray(b'ab')]",
    "__import__('collections').Counter('aab')",
    "__import__('collections').namedtuple('P', 'x y')(1, 2)",
)


@pytest.mark.parametrize("value", VALUES)
def test_data_goes_to_the_program_and_back_unchanged(value: str, tmp_path: Path) -> None:
    body = f"    assert x == {value}\n    return {value}\n"
    test = f"def check(candidate):\n    value = {value}\n    assert candidate(value) == value\n"
    assert examined(tmp_path, body, test=test).kind == "passed"


@pytest.mark.parametrize(
    "value", ["1", "True", "'1'", "[2.0]", "(2,)", "float('nan')", "None", "object()", "2.0000001"]
)
def test_what_is_not_equal_fails(value: str, tmp_path: Path) -> None:
    test = "def check(candidate):\n    assert candidate(1) == 2\n"
    assert examined(tmp_path, f"    return {value}\n", test=test).kind == "failed"


def test_what_a_program_raises_reaches_the_test_by_its_name(tmp_path: Path) -> None:
    test = (
        "def check(candidate):\n    for x, kind in ((0, ZeroDivisionError), ('', TypeError)):\n"
        "        try:\n            candidate(x)\n        except kind:\n            continue\n"
        "        raise AssertionError(x)\n"
    )
    assert examined(tmp_path, "    return 1 / x\n", test=test).kind == "passed"
    assert examined(tmp_path, "    return 1 // 1\n", test=test).kind == "failed"
    odd = "    class Odd(Exception): pass\n    raise Odd('so')\n"
    verdict = examined(tmp_path, odd)
    assert (verdict.kind, verdict.reason) == ("error", "the program raised ProgramError: Odd: so")
    verdict = examined(tmp_path, "    return (\n")
    assert verdict.kind == "error"
    assert verdict.reason.startswith("the program raised SyntaxError: '(' was never closed")


def test_programs_and_tests_are_plain_python_of_this_version(tmp_path: Path) -> None:
    """What the script that runs them imports from __future__ would change their annotations."""
    body = "    def g(y: int): return y\n    return x + (g.__annotations__ == {'y': int})\n"
    test = (
        "from dataclasses import dataclass\n\n\n@dataclass\nclass Given:\n    x: int\n\n\n"
        "def check(candidate):\n    assert Given.__annotations__ == {'x': int}\n"
        "    assert candidate(Given(1).x) == 2\n"
    )
    assert examined(tmp_path, body, test=test).kind == "passed"


def test_draws_of_program_and_tests_are_the_same_each_time(tmp_path: Path) -> None:
    body = "    import random\n    return random.random(), list({'a', 'b', 'c', 'd', 'e'})\n"
    test = "def check(candidate):\n    assert False, candidate(1)\n"
    first, again = (examined(tmp_path, body, test=test) for _ in range(2))
    assert first.reason == again.reason != ""
    assert first.reason != examined(tmp_path, body, test=test, task_id="two").reason


def test_a_suite_whose_tests_are_no_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="one: the suite's tests must be Python, but are not"):
        examined(tmp_path, programs.HONEST, test="def check(:\n")


BAD = {
    "no JSON": (b'{"task_id": ', "line 1: a line must be a JSON object"),
    "a list": (b"[1]\n", "is a list"),
    "another form": (
        b'{"task_id": "a", "question": "b"}\n',
        "must have HumanEval's .* but test_list is missing",
    ),
    "a number": (json.dumps(problem("a", prompt=3)).encode(), "prompt is no text"),
    "no name": (json.dumps(problem("a", entry_point="f()")).encode(), "entry_point is 'f()', no name of Python"),
    "tests": (json.dumps({**MBPP, "test_list": "assert 1"}).encode(), "test_list is no list of texts"),
    "task": (json.dumps({**problem("a"), "task_id": None}).encode(), "task_id is neither text nor a number"),
    "twice": ((json.dumps(problem("a")) + "\n").encode() * 2, "line 2: a problem must be there once, but a is there"),
    "empty": (b"\n\n", "must hold problems, one a line, but is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_broken_suite_is_refused_by_its_line(name: str, tmp_path: Path) -> None:
    raw, message = BAD[name]
    (tmp_path / "suite.jsonl").write_bytes(raw)
    with pytest.raises(FileError, match=message.replace("(", r"\(").replace(")", r"\)")):
        read_suite(tmp_path / "suite.jsonl")


def test_a_suite_may_be_compressed_but_not_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = write_lines(tmp_path / "S.jsonl", [problem("a"), problem("b")])
    (tmp_path / "S.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert read_suite(tmp_path / "S.jsonl.gz") == read_suite(plain)
    assert read_suite(plain).name == "s"
    monkeypatch.setattr("dougong.run.problems.LARGEST", 100)
    with pytest.raises(FileError, match="at most 100 bytes when unpacked"):
        read_suite(tmp_path / "S.jsonl.gz")


def test_solutions_must_be_of_the_suite_and_of_every_problem(tmp_path: Path) -> None:
    suite = read_suite(write_lines(tmp_path / "s.jsonl", [problem("a"), problem("b")]))
    rows: list[dict[str, Any]] = [{"task_id": name, "completion": name} for name in ("a", "b", "a")]
    assert read_solutions(write_lines(tmp_path / "x", rows), suite) == {"a": ["a", "a"], "b": ["b"]}
    for bad, message in (
        ([*rows, {"task_id": "c", "completion": ""}], "'c' is none"),
        ([*rows, {"task_id": "a"}], "must have the text `completion`"),
        (rows[:1], "b has none"),
    ):
        with pytest.raises(FileError, match=message):
            read_solutions(write_lines(tmp_path / "x", bad), suite)


def solved(folder: Path, count: int = 12) -> dict[str, Path]:
    """A suite of which every third program is wrong, and its solutions."""
    bodies = {f"p{number}": "    return x\n" if number % 3 == 0 else programs.HONEST for number in range(count)}
    return programs.written(folder, bodies)


def test_an_evaluation_killed_in_the_middle_goes_on_to_the_same_score(tmp_path: Path) -> None:
    files = solved(tmp_path, 60)
    kept = tmp_path / "kept"
    words = [f"--{name}={path}" for name, path in files.items()]
    command = [sys.executable, "-m", "dougong", "evaluate", *words, f"--to={kept}", "--workers=2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = kept / "verdicts.jsonl"
    deadline = time.monotonic() + 200
    while not lines.exists() or lines.read_bytes().count(b"\n") < 5:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    begun = lines.read_bytes()
    assert 5 <= begun.count(b"\n") < 60
    assert not (kept / "score.json").exists()
    lines.write_bytes(begun + b'{"task_id": "p')  # what a kill may leave of a line
    score = dougong.evaluate_code(**files, to=kept, workers=2)
    assert lines.read_bytes().startswith(begun)
    assert sorted(programs.kept_verdicts(kept)) == sorted(f"p{number}" for number in range(60))
    assert lines.read_bytes().count(b"\n") == 60
    assert score["pass@1"] == pytest.approx(40 / 60)
    assert score == json.loads((kept / "score.json").read_text())


def test_what_is_there_is_not_examined_again_and_with_other_options_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, kept = solved(tmp_path), tmp_path / "kept"
    first = dougong.evaluate_code(**files, to=kept)
    with monkeypatch.context() as patched:
        patched.setattr(exam.Examiner, "examine", lambda *words: pytest.fail("examined again"))
        assert dougong.evaluate_code(**files, to=kept) == first
        with pytest.raises(pytest.fail.Exception, match="examined again"):  # the control: in a new folder it is asked
            dougong.evaluate_code(**files, to=tmp_path / "new")
    with pytest.raises(UsageError, match=r"timeout was 10.0 and is 5.0. Give the same, .* --to FOLDER"):
        dougong.evaluate_code(**files, to=kept, timeout=5.0)
    files["solutions"].write_text(files["solutions"].read_text().replace("x + 1", "1 + x"))
    with pytest.raises(UsageError, match="solutions is another"):
        dougong.evaluate_code(**files, to=kept)
    shutil.copy(files["suite"], tmp_path / "other.jsonl")
    (tmp_path / "other.jsonl").write_text(files["suite"].read_text().replace("after x", "behind x"))
    with pytest.raises(UsageError, match="suite is another|solutions is another"):
        dougong.evaluate_code(suite=tmp_path / "other.jsonl", solutions=files["solutions"], to=kept)
    path = tmp_path / "new" / "verdicts.jsonl"
    for line in ("[]", '{"task_id": [], "sample": 0, "verdict": "a", "reason": ""}', '{"task_id": "p0", "sample": 0}'):
        path.write_text(line + "\n")
        with pytest.raises(FileError, match=r"must hold lines of samples, but .* is none. Remove the file"):
            _Lines(path, ("verdict", "reason"))


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    with _Lines(tmp_path / "verdicts.jsonl", ("verdict", "reason")) as lines:
        lines.add(("a", 0), "passed", "")
        lines._file.close()
        lines._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
        with pytest.raises(ResourceError, match=r"verdicts.jsonl cannot be written: No space left on device"):
            lines.add(("a", 1), "passed", "")
        assert lines.rows == {("a", 0): ("passed", "")}


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    hold = (
        "import fcntl, sys\nfile = open(sys.argv[1], 'ab')\nfcntl.lockf(file, fcntl.LOCK_EX)\nprint(1, flush=True)\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(tmp_path / "kept" / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(UsageError, match="must be free, but another evaluation is running in it"):
            dougong.evaluate_code(**solved(tmp_path, 3), to=tmp_path / "kept")
        holder.communicate()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with a small model in it that writes at random."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    hostile.sound_model(folder / "model")
    (folder / "recipe.yaml").write_text("{}\n")
    return folder


SHORT = {"prompt": "def f(x):\n", "canonical_solution": programs.HONEST}
SAMPLING = {"k": (1, 3), "samples": 3, "temperature": 1.0, "max_new_tokens": 6, "seed": 5}


def sampled(folder: Path) -> dict[tuple[str, int], str | None]:
    rows = map(json.loads, (folder / "samples.jsonl").read_text().splitlines())
    return {(row["task_id"], row["sample"]): row["completion"] for row in rows}


def test_a_models_samples_are_a_function_of_seed_problem_and_number(run: Path, tmp_path: Path) -> None:
    suite = write_lines(tmp_path / "short.jsonl", [problem(name, **SHORT) for name in ("a", "b")] + [problem("c")])
    score = dougong.evaluate_code(run, suite=suite, **SAMPLING)
    kept = run / "suites" / "short"
    whole = sampled(kept)
    assert len(whole) == 9
    assert len({text for text in whole.values()}) == 7, "six that differ, and three for which there was no room"
    assert [whole["c", number] for number in range(3)] == [None] * 3
    assert score["verdicts"]["no room"] == 3
    assert score["pass@1"] == score["pass@3"] == 0
    lines = (kept / "samples.jsonl").read_text().splitlines(keepends=True)
    (kept / "samples.jsonl").write_text("".join(lines[:4]) + lines[4][:9])
    (kept / "verdicts.jsonl").unlink()
    assert dougong.evaluate_code(run, suite=suite, **SAMPLING) == score
    assert sampled(kept) == whole
    fewer = {**SAMPLING, "samples": 2, "k": (2,)}
    dougong.evaluate_code(run, suite=suite, to=tmp_path / "two", **fewer)
    assert sampled(tmp_path / "two") == {place: text for place, text in whole.items() if place[1] < 2}
    dougong.evaluate_code(run, suite=suite, to=tmp_path / "two", **SAMPLING)
    assert sampled(tmp_path / "two") == whole
    with pytest.raises(UsageError, match="seed was 5 and is 6"):
        dougong.evaluate_code(run, suite=suite, **{**SAMPLING, "seed": 6})
    dougong.evaluate_code(run, suite=suite, to=tmp_path / "six", **{**SAMPLING, "seed": 6})
    assert sampled(tmp_path / "six") != whole


def test_another_model_is_not_gone_on_with(run: Path, tmp_path: Path) -> None:
    suite = write_lines(tmp_path / "short.jsonl", [problem("a", **SHORT)])
    options: dict[str, Any] = {"suite": suite, "to": tmp_path / "kept", "max_new_tokens": 4}
    assert dougong.evaluate_code(run, **options)["pass@1"] == 0
    other = tmp_path / "other"
    shutil.copytree(run / "model", other)
    assert dougong.evaluate_code(other, **options)["pass@1"] == 0  # the control: the same model elsewhere
    hostile.edited(other / "config.json", resid_pdrop=0.25)
    with pytest.raises(UsageError, match="model is another"):
        dougong.evaluate_code(other, **options)
    (other / "adapter").mkdir()
    hostile.edited(other / "config.json", resid_pdrop=0.0)
    (other / "adapter" / "adapter_model.safetensors").write_bytes(b"another")
    with pytest.raises(UsageError, match="model is another"):  # of the same weights, but with an adapter beside them
        dougong.evaluate_code(other, **options)
    with pytest.raises(UsageError, match="must be in a run, to keep samples there, but is not. Add --to FOLDER"):
        dougong.evaluate_code(other, suite=suite)


REFUSED: dict[str, tuple[list[str], str]] = {
    "k": (["--solutions=SOLUTIONS", "--k=1,2"], "k must be at most the 1 samples of a problem, but is 2"),
    "k of none": (["--solutions=SOLUTIONS", "--k=0"], "--k must hold numbers of at least 1, but holds 0"),
    "k in words": (["--solutions=SOLUTIONS", "--k=one"], "--k must be numbers with commas, such as 1,10, but is 'one'"),
    "nothing": ([], "a model or solutions must be evaluated, but neither is"),
    "both": (["RUN", "--solutions=SOLUTIONS"], "but both are given"),
    "idle": (["--solutions=SOLUTIONS", "--temperature=1"], "temperature must be left out"),
    "idle run": (["--solutions=SOLUTIONS", "--run=RUN"], "run must be left out"),
    "greedy": (["RUN", "--samples=2", "--temperature=0"], "--samples above 1 have no effect with temperature 0"),
    "greedy top-p": (["RUN", "--top-p=0.5"], "--top-p has no effect with temperature 0"),
    "set": (["RUN", "--set=train.steps=1"], "--set has no effect with --suite"),
    "workers": (["--solutions=SOLUTIONS", "--workers=0"], "--workers must be at least 1"),
    "timeout": (["--solutions=SOLUTIONS", "--timeout=0"], "--timeout must be greater than 0.0"),
    "long timeout": (["--solutions=SOLUTIONS", "--timeout=1e12"], "--timeout must be at most 86400.0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_are_impossible_or_have_no_effect_are_refused(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dougong.run.suite.require_walls", lambda: pytest.fail("went on"))
    words, message = REFUSED[name]
    files = {key: str(path) for key, path in solved(tmp_path, 3).items()}
    words = [word.replace("SOLUTIONS", files["solutions"]).replace("RUN", str(run)) for word in words]
    assert run_guarded(app, ["evaluate", *words, "--suite", files["suite"]]) == 2
    assert message in capsys.readouterr().err


def test_without_a_suite_its_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--samples=0"], ["--k=1"], ["--to=x"], ["--solutions=x"], ["--timeout=1"]):
        assert run_guarded(app, ["evaluate", "gpt-stdlib", *words]) == 2
        assert f"{words[0].split('=')[0]} has no effect without --suite" in capsys.readouterr().err
    assert run_guarded(app, ["evaluate"]) == 2
    assert "dougong evaluate needs RECIPE, but it is absent" in capsys.readouterr().err


def test_the_score_is_printed_for_a_person_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", *(f"--{name}={path}" for name, path in solved(tmp_path, 3).items())]
    assert run_guarded(app, words) == 0
    text = capsys.readouterr().out
    assert "suite: 3 problems, 3 programs" in text
    assert "pass@1                      0.6667" in text
    assert [line.split() for line in text.splitlines()[-2:]] == [["passed", "2"], ["failed", "1"]]
    assert run_guarded(app, [*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdicts"] == {"passed": 2, "failed": 1}


def test_a_failure_of_one_worker_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def examine(self: Examiner, problem: Problem, program: str) -> Any:
        seen.append(problem.task_id)
        raise FileError("broken")

    monkeypatch.setattr(exam.Examiner, "examine", examine)
    with pytest.raises(DougongError, match="broken"):
        dougong.evaluate_code(**solved(tmp_path, 12), workers=2)
    assert len(seen) <= 4
