"""The picture shows what is there: structure, counts, shapes and numbers, with no overlap, safe to open anywhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dougong.core.config import find_part
from dougong.core.errors import UsageError
from dougong.plan.diagram import diagram
from dougong.plan.diagram.canvas import Text, width_of, wrapped
from dougong.plan.diagram.elements import Box, Element, Frame, Join, Parallel, Series, Tangle
from dougong.plan.diagram.labels import plainly, shape_words, short, spanned
from dougong.plan.diagram.layout import PAGE
from dougong.plan.diagram.structure import structure
from dougong.plan.diagram.trace import Tracer, Value, trace
from dougong.recipe import load
from tests.plan.networks import Dense, Experts, Ladder, Mixer, ResNet50

GPT = find_part("models", "gpt")
RESNET, RETINANET = find_part("models", "resnet"), find_part("models", "retinanet")
Network = tuple[Callable[[], nn.Module], Callable[[], dict[str, Tensor]]]


def tokens(rows: int = 1, time: int = 20) -> dict[str, Tensor]:
    return {"tokens": torch.zeros(rows, time, dtype=torch.int64)}


def image(channels: int = 3, side: int = 32) -> Tensor:
    return torch.zeros(1, channels, side, side)


NETWORKS: dict[str, Network] = {
    **{name: (GPT.PART(**values).build, lambda: tokens(1, 24)) for name, values in GPT.SMALL.items()},
    "resnet50": (ResNet50, lambda: {"x": image(side=224)}),
    "mixer": (Mixer, lambda: tokens(64)),
    "dense": (Dense, lambda: {"image": image(8)}),
    "ladder": (Ladder, lambda: {"image": image()}),
    "experts": (Experts, lambda: {"x": torch.zeros(2, 5, 8)}),
    "retinanet": (RETINANET.PART(**RETINANET.SMALL["plain"]).build, lambda: {"images": torch.zeros(1, 3, 32, 48)}),
    "gpt3-175b": (load("gpt3-175b").model.build, lambda: tokens(1, 2048)),  # type: ignore[attr-defined]
}


def on_meta(network: Network) -> tuple[nn.Module, dict[str, Tensor]]:
    with torch.device("meta"):
        return network[0](), network[1]()


def picture(name: str) -> ElementTree.Element:
    return ElementTree.fromstring(diagram(*on_meta(NETWORKS[name]), name))


def read(model: nn.Module, inputs: dict[str, Tensor]) -> Series:
    return structure(trace(model.to("meta"), {name: tensor.to("meta") for name, tensor in inputs.items()}))


def inside(item: Element | Series | None) -> Iterator[Element]:
    """Yields every element, at any depth."""
    if isinstance(item, Series):
        for inner in item.items:
            yield from inside(inner)
    elif isinstance(item, Frame):
        yield item
        yield from inside(item.body)
    elif isinstance(item, Parallel | Tangle):
        yield item
        for part in item.branches if isinstance(item, Parallel) else item.items:
            yield from inside(part)
    elif item is not None:
        yield item


def found(elements: Series, kind: type) -> list:
    return [item for item in inside(elements) if isinstance(item, kind)]


def tags(svg: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [node for node in svg.iter() if node.tag == "{http://www.w3.org/2000/svg}" + name]


def text_boxes(svg: ElementTree.Element) -> list[tuple[float, float, float, float]]:
    return [
        Text(
            float(node.get("x", 0)),
            float(node.get("y", 0)),
            node.text or "",
            float(node.get("font-size", 0)),
            node.get("class", ""),
            node.get("text-anchor", "start"),  # type: ignore[arg-type]
        ).box
        for node in tags(svg, "text")
    ]


def blocks(svg: ElementTree.Element) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of every box and frame."""
    drawn = [node for node in tags(svg, "rect") if node.get("class") not in ("paper", "header", "behind")]
    sides = [[float(node.get(name, 0)) for name in ("x", "y", "width", "height")] for node in drawn]
    return [(x, y, x + width, y + height) for x, y, width, height in sides]


def pieces(svg: ElementTree.Element) -> Iterator[tuple[float, float, float, float]]:
    """Yields every straight piece of every line as a thin box."""
    for node in tags(svg, "path"):
        if node.get("class") == "line":
            points = [tuple(map(float, point)) for point in re.findall(r"([\d.-]+) ([\d.-]+)", node.get("d", ""))]
            for (x0, y0), (x1, y1) in pairwise(points):
                yield min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def crossing(one: tuple[float, ...], other: tuple[float, ...], slack: float = 0.5) -> bool:
    apart = one[2] <= other[0] + slack or other[2] <= one[0] + slack
    return not (apart or one[3] <= other[1] + slack or other[3] <= one[1] + slack)


def touches(line: tuple[float, ...], box: tuple[float, ...]) -> bool:
    """Whether a line, which has no width, runs through a box."""
    return line[0] < box[2] and box[0] < line[2] + 0.01 and line[1] < box[3] and box[1] < line[3] + 0.01


def overlaps(svg: ElementTree.Element) -> list[str]:
    """Returns what is painted over something else, or out of the page."""
    texts, boxes = text_boxes(svg), blocks(svg)
    width, height = float(svg.get("width", 0)), float(svg.get("height", 0))
    found = [f"texts {a} {b}" for i, a in enumerate(texts) for b in texts[:i] if crossing(a, b)]
    found += [
        f"out of the page {t}" for t in texts + boxes if not (t[0] >= 0 <= t[1] and t[2] <= width and t[3] <= height)
    ]
    found += [f"line {line} through text {t}" for line in pieces(svg) for t in texts if touches(line, t)]
    found += [
        f"boxes {a} {b}"
        for i, a in enumerate(boxes)
        for b in boxes[:i]
        if crossing(a, b) and not (holds(a, b) or holds(b, a))
    ]
    return found + [
        f"text {t} over the edge of {b}" for t in texts for b in boxes if crossing(t, b) and not holds(b, t)
    ]


def holds(outer: tuple[float, ...], inner: tuple[float, ...]) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and outer[2] >= inner[2] and outer[3] >= inner[3]


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_overlaps_and_all_lies_on_the_page(name: str) -> None:
    svg = picture(name)
    assert len(text_boxes(svg)) > 5
    assert overlaps(svg) == []
    assert svg.get("viewBox") == f"0 0 {svg.get('width')} {svg.get('height')}"


@pytest.mark.parametrize("change", ["x", "y", "font-size"])
def test_an_overlap_would_be_seen(change: str) -> None:
    """The control: one text moved, or larger, and the check above complains."""
    svg = picture("gpt2")
    node = tags(svg, "text")[8]
    node.set(change, str(float(node.get(change, 0)) * 2 + 30))
    assert overlaps(svg) != []


@pytest.mark.parametrize("name", NETWORKS)
def test_a_picture_is_readable_at_page_width_and_needs_nothing_else(name: str) -> None:
    svg = picture(name)
    assert float(svg.get("width", 0)) <= PAGE
    assert float(svg.get("height", 0)) <= 3600  # ResNet-50's; a page is scrolled down, never to the side
    assert min(float(node.get("font-size", 0)) for node in tags(svg, "text")) >= 11
    assert {node.tag.split("}")[1] for node in svg.iter()} == {"svg", "title", "desc", "style", "rect", "path", "text"}
    attributes = {key for node in svg.iter() for key in node.attrib}
    assert not {key for key in attributes if "href" in key or key.startswith("on")}
    style = tags(svg, "style")[0].text or ""
    assert "prefers-color-scheme: dark" in style
    assert "url(" not in style
    assert "import" not in style
    assert (svg.get("aria-label") or "").endswith(name)
    assert "parameters" in (tags(svg, "desc")[0].text or "")


def test_every_layer_of_gpt3_is_drawn_once_and_counted() -> None:
    series = read(*on_meta(NETWORKS["gpt3-175b"]))
    (frame,) = found(series, Frame)
    assert (frame.times, frame.title, frame.name) == (96, "Block", "blocks.0–95")
    assert frame.notes == ("mask: none in 48, given in 48",)
    assert [box.title for box in found(series, Box)].count("Attention") == 1
    texts = [node.text for node in tags(picture("gpt3-175b"), "text")]
    assert "× 96" in texts
    assert "174,604,259,328 parameters, 735 TFLOP forward for one sample" in texts


def test_resnet_50_has_the_blocks_of_its_table() -> None:
    frames = found(read(*on_meta(NETWORKS["resnet50"])), Frame)
    assert [frame.times for frame in frames] == [1, 2, 1, 3, 1, 5, 1, 2]
    assert {frame.title for frame in frames} == {"Bottleneck"}


def test_a_block_that_differs_ends_a_run() -> None:
    """The control: what is folded is what looks the same, not what stands beside each other under one name."""
    with torch.device("meta"):
        model = GPT.PART(**{**GPT.SMALL["gpt2"], "num_layers": 6}).build()
        whole = found(read(model, tokens()), Frame)
        model.blocks[3].feedforward = type(model.blocks[3].feedforward)(32, 48, "gelu_tanh", True)
        broken = found(read(model, tokens()), Frame)
    assert [frame.times for frame in whole] == [6]
    assert [frame.times for frame in broken] == [3, 1, 2]


def test_periods_of_several_blocks_are_folded() -> None:
    row = [layer for _ in range(5) for layer in (nn.Linear(4, 8), nn.Linear(8, 4))]
    series = read(nn.Sequential(*row), {"input": torch.zeros(2, 4)})
    (frame,) = found(series, Frame)
    assert frame.times == 5
    assert [box.lines for box in found(series, Box)] == [("4 → 8",), ("8 → 4",)]


def test_residual_and_parallel_branches_are_those_of_the_run() -> None:
    bottlenecks = found(read(*on_meta(NETWORKS["resnet50"])), Frame)
    assert [len(p.branches) for p in found(bottlenecks[0].body, Parallel)] == [2]
    assert None not in found(bottlenecks[0].body, Parallel)[0].branches
    assert found(bottlenecks[1].body, Parallel)[0].branches[-1] is None
    assert found(bottlenecks[1].body, Join) == [Join("+", "ReLU")]
    plain = read(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 5)), {"input": torch.zeros(2, 4)})
    assert not found(plain, Parallel)
    mixer = read(*on_meta(NETWORKS["mixer"]))
    assert [len(p.branches) for p in found(mixer, Parallel)] == [3, 2, 2]


def forks(name: str) -> list[Element]:
    """Where the row of a trunk of several stages, of a classifier or of a detector, is left or joined by something."""
    part, shape = (RESNET, (3, 20, 24)) if name == "resnet" else (RETINANET, (3, 32, 48))
    values = RESNET.SMALL["basic"] if name == "resnet" else RETINANET.SMALL["plain"]
    model, inputs = on_meta((part.PART(**values).build, lambda: {"images": torch.zeros(1, *shape)}))
    trunk = next(frame for frame in found(read(model, inputs), Frame) if frame.title == "Trunk")
    return [item for item in trunk.body.items if isinstance(item, Parallel | Tangle)]


def test_of_several_results_those_are_drawn_that_something_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trunk gives the maps of all its stages: a classifier reads the last alone, a detector several."""
    assert not forks("resnet")
    assert forks("retinanet")
    monkeypatch.setattr(Value, "wanted", True)
    assert forks("resnet")


class Levels(nn.Module):
    """One layer over maps of several sizes, whose results are put together."""

    def __init__(self, count: int, other: bool = False):
        super().__init__()
        self.count = count
        self.layer = nn.Linear(6, 4)
        self.other = nn.Linear(6, 4) if other else self.layer

    def forward(self, rows: Tensor) -> Tensor:
        levels = [rows[:, : 8 - number] for number in range(self.count)]
        parts = [(self.layer if number else self.other)(level).tanh() for number, level in enumerate(levels)]
        return torch.cat(parts, dim=1)


def test_branches_that_differ_in_shapes_alone_are_one_with_their_number() -> None:
    """The control: of two there is nothing to fold."""
    rows = {"rows": torch.zeros(1, 8, 6)}
    (parallel,) = found(read(Levels(3), rows), Parallel)
    assert parallel.times == (3,)
    assert parallel.branches[0] is not None
    assert parallel.branches[0].labels[-1] == "8 to 6 × 4"
    (parallel,) = found(read(Levels(2), rows), Parallel)
    assert parallel.times == (1, 1)


@pytest.mark.parametrize(
    ("shapes", "one"),
    [
        (["channel 96 · height 32", "channel 96 · height 16", "channel 96 · height 8"], "channel 96 · height 32 to 8"),
        (["8 × 4", "2 × 4"], "8 to 2 × 4"),
        (["time 3", "time 3"], "time 3"),
        (["time 3", "time 3 · channel 2"], "time 3"),
        (["", ""], ""),
    ],
)
def test_shapes_of_several_are_a_span(shapes: list[str], one: str) -> None:
    assert spanned(shapes) == one


def test_a_table_of_positions_begins_by_itself() -> None:
    parallel = found(read(*on_meta(NETWORKS["gpt2"])), Parallel)[0]
    assert parallel.fed == (True, False)


def test_equal_branches_are_one_with_their_number() -> None:
    parallel = found(read(*on_meta(NETWORKS["experts"])), Parallel)
    assert [p.times for p in parallel] == [(1, 1), (16,)]


def test_what_is_neither_a_row_nor_branches_is_drawn_with_every_link() -> None:
    (tangle,) = found(read(*on_meta(NETWORKS["dense"])), Tangle)
    assert len(tangle.items) == 7
    assert len(tangle.links) == 17  # of 4 images, 4 + 3 + 2 + 1 results of layers, and 3 of concatenations


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixer", "ladder", "resnet50"])
def test_shapes_on_the_arrows_are_those_of_a_real_run(name: str) -> None:
    model, inputs = NETWORKS[name][0](), NETWORKS[name][1]()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    seen = {tuple(tensor.shape) for tensor in inputs.values()}

    def note(module: nn.Module, args: tuple[object, ...], result: object) -> None:
        made = result if isinstance(result, tuple) else (result,)
        seen.update(tuple(t.shape) for t in (*args, *made) if isinstance(t, Tensor))

    for module in model.modules():
        module.register_forward_hook(note)
    model.eval()(**inputs)
    series = read(NETWORKS[name][0](), inputs)
    labels = {label for item in [series, *found_series(series)] for label in item.labels if label}
    shapes = {tuple(int(n.replace(",", "")) for n in re.findall(r"\b\d[\d,]*\b", label)) for label in labels}
    real = (
        {shape[1:] if shape[0] == 1 else shape for shape in seen} | seen | {shape for s in seen for shape in swapped(s)}
    )
    assert len(shapes) > 2
    assert shapes <= real
    assert not {tuple(size + 1 for size in shape) for shape in shapes} <= real  # the control


def swapped(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """What concatenations and transpositions of functions make of it, for networks that use them between modules."""
    if len(shape) != 3:
        return [(shape[0], 2 * shape[1], *shape[2:]), (2 * shape[1], *shape[2:])] if len(shape) == 4 else []
    return [(shape[0], shape[2], shape[1]), (shape[0], 3 * shape[1], shape[2]), (shape[0], shape[2])]


def found_series(item: Element | Series) -> Iterator[Series]:
    for element in inside(item):
        if isinstance(element, Frame):
            yield element.body
        elif isinstance(element, Parallel):
            yield from (branch for branch in element.branches if branch is not None)


def deep(name: str) -> Callable[[], nn.Module]:
    return GPT.PART(**{**GPT.SMALL[name], "num_layers": 5}).build


@pytest.mark.parametrize("name", ["gpt3", "qwen3", "resnet50"])
def test_taking_the_shapes_of_an_equal_sibling_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build = NETWORKS[name] if name == "resnet50" else (deep(name), lambda: tokens(1, 24))
    short_cut = diagram(*on_meta(build))
    runs: list[nn.Module] = []

    def run_it(self: Tracer, member: nn.Module, members: nn.Module) -> object:
        forward = member.forward
        return lambda *args, **kwargs: (runs.append(member), forward(*args, **kwargs))[1]

    monkeypatch.setattr(Tracer, "_once", run_it)
    assert diagram(*on_meta(build)) == short_cut
    assert runs


def test_operations_are_those_of_a_run_without_short_cuts() -> None:
    model, inputs = on_meta((GPT.PART(**{**GPT.SMALL["llama"], "num_layers": 7}).build, lambda: tokens(1, 24)))
    with FlopCounterMode(display=False) as counter:
        model(**inputs)
    assert trace(model, inputs).flops == counter.get_total_flops() > 0


def test_the_model_is_left_as_it_was() -> None:
    model, inputs = on_meta(NETWORKS["resnet50"])
    diagram(model.train(), inputs)
    assert all(module.training for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_tied_weights_are_said_and_counted_once() -> None:
    tied, untied = (found(read(*on_meta(NETWORKS[name])), Box)[-1] for name in ("gpt2", "llama"))
    assert (tied.lines[-1], tied.parameters) == ("weight shared with token_embedding", 0)
    assert (untied.lines[-1], untied.parameters) == ("unembedding.weight", 61 * 32)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 4)
            self.head = nn.Linear(4, 10, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.embed(tokens))

    with torch.device("meta"):
        boxes = found(structure(trace(Tied(), tokens())), Box)
    assert [box.parameters for box in boxes] == [40, 0]
    assert boxes[1].lines == ("4 → 10", "weight shared with embed")


def test_hostile_names_are_shown_and_do_nothing() -> None:
    name = '</title><script>alert("1")</script>\u202e&\x01'
    evil = type("Evil<script>", (nn.Linear,), {})
    model = nn.Sequential()
    model.add_module(name.replace(".", ""), evil(4, 4))
    text = diagram(model.to("meta"), {"input": torch.zeros(2, 4, device="meta")}, name)
    svg = ElementTree.fromstring(text)
    assert "<script" not in text
    assert tags(svg, "script") == []
    assert "\u202e" not in text
    assert "\x01" not in text
    assert any("Evil<script>" in (node.text or "") for node in tags(svg, "text"))
    assert overlaps(svg) == []


def test_long_names_are_cut_and_stay_in_their_boxes() -> None:
    model = nn.Sequential()
    model.add_module("a" * 300, nn.Linear(4, 4))
    svg = ElementTree.fromstring(diagram(model.to("meta"), {"input": torch.zeros(2, 4, device="meta")}, "b" * 20))
    assert overlaps(svg) == []
    assert any("a" * 300 in (node.text or "") for node in tags(svg, "title"))
    assert all(width_of(line) <= 100 for line in wrapped("c" * 90 + " d e", 100.0))


def words(value: tuple[int, ...], axes: tuple[str | None, ...]) -> str:
    return shape_words(Value(value, axes, None, "float"))


def test_axes_are_in_words_where_they_are_known() -> None:
    assert words((64, 128, 256), ("batch", "time", "channel")) == "batch 64 · time 128 · channel 256"
    assert words((1, 128, 4), ("batch", None, "dim")) == "128 · dim 4"
    assert words((3, 2000), (None, None)) == "3 × 2,000"
    assert words((), ()) == "one number"


class Turned(nn.Module):
    """As long as wide, so that no length tells which axis is which."""

    def __init__(self, turn: Callable[[Tensor], Tensor]):
        super().__init__()
        self.embed, self.turn, self.last = nn.Embedding(10, 20), turn, nn.LayerNorm(20)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last(self.turn(self.embed(tokens)))


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (lambda x: x, ("batch", "time", "dim")),
        (lambda x: x.transpose(1, 2), ("batch", "dim", "time")),
        (lambda x: x.mT, ("batch", "dim", "time")),
        (lambda x: x.permute(2, 0, 1), ("dim", "batch", "time")),
        (lambda x: x.mean(1), ("batch", "dim")),
        (lambda x: x.amax(dim=2), ("batch", "time")),
        (lambda x: x[:, 0], ("batch", "dim")),
        (lambda x: x[:, :, None], ("batch", "time", None, "dim")),
        (lambda x: x.reshape(20, 20, 20), ("batch", "time", "dim")),
        (lambda x: x.reshape(20, 400)[:, :20], ("batch", "time×dim")),
    ],
)
def test_a_word_follows_its_axis_wherever_it_goes(
    turn: Callable[[Tensor], Tensor], words: tuple[str | None, ...]
) -> None:
    with torch.device("meta"):
        root = trace(Turned(turn), tokens(20, 20))
    assert root.events[-1].inputs[0].axes == words


def test_counts_are_short() -> None:
    numbers = (999, 9_999, 10_000, 999_499, 999_600, 1_234_567, 174_604_259_328, 2e12)
    assert [short(n) for n in numbers] == ["999", "9,999", "10 K", "999 K", "1 M", "1.23 M", "175 B", "2 T"]
    assert short(8.18e9, " KMGTPE") == "8.18 G"
    assert plainly("a\tb\u200f") == "a b\ufffd"


def test_a_task_gives_the_inputs_and_one_that_does_not_fit_is_refused() -> None:
    config = GPT.PART(**GPT.SMALL["gpt2"])
    task = find_part("tasks", "language_modeling").PART().build(config)
    svg = ElementTree.fromstring(diagram(config, task))
    texts = [node.text for node in tags(svg, "text")]
    assert {"GPT", "tokens", "time 24", "time 24 · vocab 61"} <= set(texts)
    with pytest.raises(UsageError, match="must run to be drawn, but does not .Expected 3D"):
        diagram(ResNet50().to("meta"), task)
