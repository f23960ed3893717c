from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dougong.core import log
from dougong.core.errors import FileError, UsageError
from dougong.data.columns import Table
from dougong.data.source import Tally
from dougong.infer.predict import load_predictor
from dougong.infer.texts import TextPredictor
from dougong.run.prediction import predict
from dougong.run.texts import _groups, answers, named
from tests.infer.texts import TEXTS, encoder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder(tmp_path_factory.mktemp("model") / "m", "classify")


def predictor(folder: Path) -> TextPredictor:
    found = load_predictor(folder, "fp32", "cpu")
    assert isinstance(found, TextPredictor)
    return found


def test_arguments_are_texts_files_and_standard_input(tmp_path: Path):
    path = tmp_path / "lines.txt"
    path.write_text("a film\n")
    assert named(str(path)) == path
    assert named("a film") == "a film"
    assert named("-") == Path("-")
    assert named("film") == "film"
    assert named("") == ""
    assert named("either/or") == "either/or"
    for absent in (str(tmp_path / "none.txt"), "reviews.txt", str(tmp_path / "none")):
        with pytest.raises(UsageError, match="must be a text or a file of them, but does not exist. Check the path."):
            named(absent)
    with pytest.raises(UsageError, match="must be a text or a file of them, but is a folder"):
        named(str(tmp_path))
    assert named("What is in reviews.txt") == "What is in reviews.txt"
    assert named("good " * 2000) == "good " * 2000


def test_each_line_of_a_file_is_answered_in_order(classifier: Path, tmp_path: Path):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(["", *TEXTS, "", f"{TEXTS[0]}\t{TEXTS[1]}"]))
    found = predict(classifier, [TEXTS[2], path], precision="fp32", device="cpu", batch_size=2)
    assert [each["input"] for each in found] == [TEXTS[2], *TEXTS, TEXTS[0]]
    assert found[-1]["second"] == TEXTS[1]
    assert found[0]["probability"] == pytest.approx(found[3]["probability"], abs=1e-5)


def test_bad_lines_stop_or_are_counted(classifier: Path, tmp_path: Path):
    path = tmp_path / "lines.txt"
    path.write_bytes(b"a film\nb\xe9d\na bad film\n")
    with pytest.raises(FileError, match=r"lines.txt, line 2: text must be UTF-8"):
        predict(classifier, path, precision="fp32", device="cpu")
    tally = Tally(1)
    found = list(answers(predictor(classifier), [path], tally))
    assert [each["input"] for each in found] == ["a film", "a bad film"]
    assert (tally.read, tally.used, len(tally.quarantined)) == (3, 2, 1)


def test_a_line_with_one_text_of_two_is_bad(tmp_path: Path):
    model = encoder(tmp_path / "model", "spans")
    path = tmp_path / "lines.tsv"
    path.write_text("who is good ?\tthe film is good\nwho is bad ?\t \nwho ?\tthe film\n")
    with pytest.raises(FileError, match=r"lines.tsv, line 2: a line must have two texts with a tab between, but has"):
        predict(model, path, precision="fp32", device="cpu")
    tally = Tally(1)
    found = list(answers(predictor(model), [path], tally))
    assert [each["context"] for each in found] == ["the film is good", "the film"]
    assert (tally.read, tally.used, len(tally.quarantined)) == (3, 2, 1)
    command = [sys.executable, "-m", "dougong", "predict", str(model), "-", "--device", "cpu"]
    done = subprocess.run(command, input=path.read_bytes(), capture_output=True, check=False)
    assert done.returncode == 3
    assert b"standard input, line 2: a line must have two texts with a tab between, but has one" in done.stderr


def test_standard_input_is_answered_as_it_comes(classifier: Path):
    command = [sys.executable, "-m", "dougong", "predict", str(classifier), "-", "--json", "--device", "cpu"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for text in TEXTS:  # each answer comes while standard input is still open
            process.stdin.write(f"{text}\n".encode())
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            assert answer["input"] == text
            assert {"label", "probability", "likeliest"} <= answer.keys()
        process.stdin.write(b"a film without a line end")
        process.stdin.close()
        assert json.loads(process.stdout.readline())["input"] == "a film without a line end"
        assert process.wait(60) == 0


def test_texts_before_a_file_change_nothing_in_how_it_is_read(tmp_path: Path):
    """More of them than go together would otherwise have the whole file read before its first answer."""
    path = tmp_path / "lines.txt"
    path.write_text("a film\n" * 9)
    groups = [len(group) for group in _groups(["text"] * 5 + [path], Tally(), 2, Table())]
    assert (sum(groups), max(groups)) == (14, 2)


TABLES = {
    "a.csv": 'id,text,other\n1,"the film\tis good",bad\n2,,bad\n3,a bad film,bad\n',
    "a.tsv": "id\ttext\tother\n1\tthe film is good\tbad\n2\t\tbad\n3\ta bad film\tbad\n",
    "a.jsonl": "".join(
        json.dumps({"id": number, "text": text, "other": "bad"}) + "\n"
        for number, text in enumerate(("the film is good", " ", "a bad film"))
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_of_a_table_the_columns_that_are_named_are_read(name: str, classifier: Path, tmp_path: Path):
    path = tmp_path / name
    path.write_text(TABLES[name])
    found = predict(classifier, path, columns=["text"], precision="fp32", device="cpu")
    assert [each["input"] for each in found] == ["the film is good", "a bad film"]
    alone = predict(classifier, ["the film is good", "a bad film"], precision="fp32", device="cpu")
    assert [each["probability"] for each in found] == [each["probability"] for each in alone]
    pairs = predict(classifier, path, columns=["text", "other"], precision="fp32", device="cpu", batch_size=1)
    assert [each["second"] for each in pairs] == ["bad", "bad"]
    assert pairs[0]["probability"] != alone[0]["probability"]  # the second text is read
    with pytest.raises(FileError, match="must have the .*'txt'"):
        predict(classifier, path, columns=["txt"], precision="fp32", device="cpu")
    with pytest.raises(UsageError, match="columns must name 1 or 2, as many as the task takes texts, but names 3."):
        predict(classifier, path, columns=["text", "other", "id"], precision="fp32", device="cpu")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz", "a.json", "a.parquet"])
def test_a_table_is_not_read_by_lines(name: str, classifier: Path, tmp_path: Path):
    (tmp_path / name).write_bytes(b"{}\n")
    with pytest.raises(UsageError, match="must be read by its columns, as it is .*, but none is named. Set columns"):
        predict(classifier, tmp_path / name, precision="fp32", device="cpu")


def test_it_is_said_that_a_tab_joined_two_texts(classifier: Path, tmp_path: Path):
    (tmp_path / "a.tsv").write_text("the film\tgood\na bad film\n")
    said: list[str] = []
    with log.listening(said.append):
        predict(classifier, tmp_path / "a.tsv", precision="fp32", device="cpu")
    assert [line for line in said if "tab" in line] == ["1 with a tab, read as two texts that belong together"]


def test_what_concerns_detectors_is_refused(classifier: Path):
    with pytest.raises(UsageError, match="min_score has no effect, as this model answers about texts"):
        predict(classifier, "a film", min_score=0.5)
