from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

from dougong.train.page import POINTS, measured_figures, write_page


def run_folder(folder: Path, steps: int = 30) -> Path:
    start = {"event": "start", "step": 0, "parameters": 1234, "versions": {"torch": "2.13"}, "facts": {"gzip": "2.5"}}
    lines = [{**start, "device": "cpu", "precision": "float32: asked for", "compile": "no: few steps"}]
    for step in range(1, steps + 1):
        line = {"step": step, "loss": 3 / step, "lr": 1e-3, "grad_norm": step % 50.0, "items": 64.0, "seconds": 0.1}
        line |= {"items_per_second": 640.0, "mfu": 0.5}
        lines.append(line | ({"evaluation": {"loss": 3.5 / step}} if step % 10 == 0 else {}))
    (folder / "run.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "recipe.yaml").write_text("model: {name: gpt}  # <script>alert(1)</script>\n")
    (folder / "plan.json").write_text(
        json.dumps({"parameters": 1234, "tokens_per_second": 700.0, "data": {"note": "a & b"}})
    )
    (folder / "samples").mkdir()
    for step in (10, 20, 30, 40):
        (folder / "samples" / f"step-{step:08d}.txt").write_text(f"def <{step}>:\n")
    return folder


class Page(HTMLParser):
    """Collects tags, addresses and text; complains of a tag that is never closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href", "action")]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_shows_the_run_and_needs_nothing_else(tmp_path: Path) -> None:
    page = Page(write_page(run_folder(tmp_path)).read_text())
    assert page.tags.count("svg") == 4
    assert {"script", "link", "img", "iframe"}.isdisjoint(page.tags)
    assert all(address.startswith("#") for address in page.addresses)
    assert "url(http" not in (tmp_path / "report.html").read_text()
    words = ("30 steps", "1,234 parameters", "Learning rate", "validation", "gzip", "<script>alert(1)</script>")
    for text in words:
        assert text in page.words
    assert "700" in page.words
    assert "data.note" in page.words
    assert "640" in page.words
    assert "def <40>:" in page.words
    assert "def <10>:" not in page.words


def test_curves_take_their_colours_from_the_page_in_light_and_dark(tmp_path: Path) -> None:
    text = write_page(run_folder(tmp_path)).read_text()
    assert "prefers-color-scheme: dark" in text
    assert "var(--first)" in text
    assert "var(--second)" in text
    drawn = "".join(re.findall(r"<svg .*?</svg>", text, flags=re.DOTALL))
    assert re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", drawn) == []


def test_a_long_run_is_drawn_with_few_points(tmp_path: Path) -> None:
    text = write_page(run_folder(tmp_path, steps=20_000)).read_text()
    assert len(text) < 400_000
    longest = max(re.findall(r'd="(M[^"]*)"', text), key=len)
    assert 100 < longest.count("L") <= POINTS


def test_a_folder_without_steps_still_has_a_page(tmp_path: Path) -> None:
    page = Page(write_page(tmp_path).read_text())
    assert "No step is written down yet." in page.words
    assert "svg" not in page.tags


def test_what_was_measured_is_told_in_medians() -> None:
    steps = [
        {"step": i, "seconds": s, "items": 10.0, "items_per_second": 10 / s} for i, s in enumerate((1.0, 2.0, 9.0))
    ]
    figures = measured_figures(steps, {"parameters": 7}, {"step": 3, "weight_bytes": 28})
    assert figures["weight_bytes"] == 28
    assert figures["seconds_per_step"] == 2.0
    assert figures["tokens_per_second"] == 5.0
    assert figures["tokens"] == 30.0
    assert figures["parameters"] == 7
    assert "mfu" not in figures


def test_what_went_wrong_is_counted(tmp_path: Path) -> None:
    with (run_folder(tmp_path) / "run.jsonl").open("a") as file:
        for event in ("rewind", "spike", "spike"):
            file.write(json.dumps({"event": event, "step": 9}) + "\n")
        file.write('{"step": 31, "loss": null, "skipped": true, "reason": "step 31"}\n')
    assert "1 steps skipped, rewinds: 1, loss spikes: 2" in Page(write_page(tmp_path).read_text()).words


def test_pictures_and_classes_are_in_the_page_itself(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    assert "In detail" not in Page(write_page(folder).read_text()).words
    (folder / "samples" / "validation.png").write_bytes(b"\x89PNG pixels")
    rows = {"a & <b>": {"examples": 3, "precision": 0.5}}
    confusions = [{"is": "a & <b>", "taken for": "c", "examples": 2}]
    (folder / "evaluation.json").write_text(json.dumps({"metrics": {}, "classes": rows, "confusions": confusions}))
    page = Page(write_page(folder).read_text())
    assert [address for address in page.addresses if address.startswith("data:image/png;base64,iVBORyBwaXhlbHM=")]
    assert "a & <b>" in page.words
    assert "taken for" in page.words
    assert "def <40>:" in page.words, "texts are still shown"
