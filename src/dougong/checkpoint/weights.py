"""A model folder in Hugging Face's layout: config.json, safetensors, and nothing that could execute (laws 6 and 8).

Knows files and tensors; how configs and names translate is each dialect's matter (`convert/`).
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from dougong.checkpoint import adapter as adapters
from dougong.checkpoint import seal
from dougong.checkpoint.convert import Layout, Piece, dialect_of, dialects, own_form, recognisers
from dougong.checkpoint.stored import Stored, opened
from dougong.core import files, log
from dougong.core.config import Config, find_part, validate
from dougong.core.errors import FileError, ResourceError, UsageError

SHARD_BYTES = 5_000_000_000
# The card is not under seal: people edit it. Of files that are added, those are refused that would be read.
SEALED = seal.Terms({"README.md"}, (".safetensors", ".json"), files.member)
# What transformers looks for apart from config.json, to generate.
_OF_GENERATION = ("decoder_start_token_id", "forced_eos_token_id", "pad_token_id")
# What a model that goes on with weights may have otherwise: its head, its room, what is drawn; and what is nested.
_FREE = "head|num_classes|.*_id|.*vocab_size|max_seq_len|.*dropout|.*init.*|prior|tie_.*|image_.*|input|stages|trunk"
_TYPE_NAMES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def load_model(folder: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> nn.Module:
    """Returns the model that a folder holds: BERT, GPT-2, Llama, Qwen3, ResNet, ResNet or VGG of timm, or our own form.

    Each tensor is read from the mapped file straight into its parameter, so the weights are in memory once. An adapter
    in the folder `adapter` of it is taken into the weights.

    Args:
        folder: A Hugging Face model folder.
        device: Where the parameters are to be.
        dtype: Their type; None is the widest type in the files.

    Raises:
        UsageError: The folder does not exist.
        UntrustedError: It asks for code, or its weights are pickled.
        FileError: A file is corrupt or not what the folder's manifest says, or a tensor is unknown, missing or of
            another shape.
    """
    folder = Path(folder)
    _verify(folder)
    theirs, dialect = _config_json(folder)
    adapted = adapters.is_adapter(folder / adapters.FOLDER)
    model = _filled(folder, dialect, _translate(folder, theirs, dialect), device, None if adapted else dtype)
    if not adapted:
        return model
    _add_adapter(folder, dialect, model, model.state_dict())
    return model.to(dtype)  # added in the type of the files: a narrow one would round the sum twice


def recognise(folder: str | Path) -> nn.Module | None:
    """Returns the model whose weights a folder holds without a config.json, told by names and shapes of the tensors.

    Raises:
        FileError: They look like those of a model that is built here, but are not.
    """
    folder = Path(folder)
    with opened(folder) as stored:
        shapes = {name: tensor.shape for name, tensor in stored.items()}
    for dialect in recognisers():
        values = dialect.recognise(shapes)
        if values is not None:
            with _explained(folder, "must hold a model"):
                config = validate(find_part("models", values["name"]).PART, values)
            return _filled(folder, dialect, config, "cpu", None)
    return None


def _filled(
    folder: Path, dialect: ModuleType, config: Any, device: torch.device | str, dtype: torch.dtype | None
) -> nn.Module:
    """Returns the model of a config with the weights of a folder."""
    with opened(folder) as stored:
        if getattr(config, "num_layers", 0) > len(stored):
            raise FileError(
                f"{folder} must hold the tensors of {config.num_layers} layers, but holds {len(stored)} tensors. "
                "Take the config.json that belongs to them."
            )
        with _explained(folder, "must describe a model that can be built"), torch.device("meta"):
            model = config.build()
        parts = _match(folder, dialect, model, stored)
        model = model.to(dtype or _widest(parts)).to_empty(device=device)
        if hasattr(model, "fill_constants"):  # which foreign files lack
            model.fill_constants()
        _copy(model, parts)
    return model


def load_weights(model: nn.Module, folder: str | Path, fresh: Sequence[str] = ()) -> list[str]:
    """Fills a model that is built already (to fine-tune it, say) from a folder; errors are those of `load_model`.

    The folder may hold a model of another family (a classifier, of which a detector takes the trunk): then what has the
    same name is taken, and what else the model has must be fresh. Or one of the same family with another head: then
    what that head alone reads is left out, and said.

    Args:
        model: What is filled.
        folder: A Hugging Face model folder.
        fresh: Tensors of the model that stay as they are: names in which `*` stands for anything.

    Returns:
        The names of the tensors that stayed as they were.
    """
    folder, ours = Path(folder), model.state_dict()
    _verify(folder)
    theirs, dialect = _config_json(folder)
    new = [name for name in ours if any(fnmatchcase(name, pattern) for pattern in fresh)]
    for pattern in fresh:
        if not any(fnmatchcase(name, pattern) for name in ours):
            raise UsageError(f"init_new must fit tensors of the model, but {pattern!r} fits none.")
    config: Any = _translate(folder, theirs, dialect)
    same_family = isinstance(model.config, type(config))
    heads = _heads(model, config) if same_family else {}
    with opened(folder) as stored:
        with _explained(folder, "must describe a model that can be built"), torch.device("meta"):
            source = config.build()
        parts, theirs = _match(folder, dialect, source, stored), source.state_dict()
        kinds = {name: kind for name in (*ours, *theirs) for like, kind in heads.items() if fnmatchcase(name, like)}
        left = [name for name in theirs if kinds.get(name) == "own" or (name in kinds and name not in ours)]
        spare = _spare(dialect, model, stored, [name for name in ours if name in kinds and name not in theirs])
        offered = {name: tensor for name, tensor in theirs.items() if name not in left}
        offered |= {part.ours: ours[part.ours] for part in spare}
        _complain_of_other(folder, ours, offered, new, same_family)
        taken = {name: ours[name] for name in offered if name in ours and name not in new}
        _copy(model, [part for part in [*parts, *spare] if part.ours in taken])
        _add_adapter(folder, dialect, source, taken)
        if same_family:
            _warn_of_other(folder, _values(model), _values(source))
    if left:
        parts_left = [like for like in heads if any(fnmatchcase(name, like) for name in left)]
        log.say(f"left out of {folder}: {', '.join(parts_left)} of its head {config.head}")
    return new


def _warn_of_other(folder: Path, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Warns of what the folder's model computes otherwise, though its tensors have the same shapes."""
    names = [name for name, value in ours.items() if value != theirs.get(name) and not re.fullmatch(_FREE, name)]
    if names:
        said, mine = (", ".join(f"{name}: {values.get(name)}" for name in names) for values in (theirs, ours))
        log.warn(
            f"{folder} was trained with {said}, but the model has {mine}. Take the folder's, unless that is meant."
        )


def _heads(model: Any, config: Any) -> Mapping[str, str]:
    """Returns the model's table of what heads alone read, if the folder's config names another head than its own."""
    same = getattr(model.config, "head", None) == getattr(config, "head", None)
    return {} if same else getattr(model, "HEADS", {})


def _spare(dialect: ModuleType, model: nn.Module, stored: Mapping[str, Stored], names: Sequence[str]) -> list[_Part]:
    """Returns those of some tensors that the files hold, though the head that their config names does not read them.

    Such is the best-known folder of BERT: its config names masked words alone, but its pooler is there, too.
    """
    layout: Layout = dialect.layout(_values(model), names)
    wanted = {piece.name: (name, piece) for name in names for piece in layout[name]}
    found = {_full_name(dialect, name, wanted): tensor for name, tensor in stored.items()}
    parts = [_Part(*wanted[name], found[name]) for name in wanted if name in found]
    ours = model.state_dict()
    return [part for part in parts if not _misfit(part, ours[part.ours])]


def _add_adapter(folder: Path, dialect: ModuleType, source: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Takes the adapter of a model folder, if it has one, into tensors by the names of the model that it holds."""
    inner = folder / adapters.FOLDER
    if adapters.is_adapter(inner):
        adapters.merge(inner, tensors, dialect.layout(_values(source), source.state_dict()), dialect)


def _complain_of_other(
    folder: Path, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], new: Sequence[str], same_family: bool
) -> None:
    """Refuses a folder whose tensors are not those of the model, apart from what starts anew."""
    missing = [name for name in ours if name not in theirs and name not in new]
    unknown = [name for name in theirs if name not in ours and name not in new] if same_family else []
    shapes = [
        f"{name} is {list(theirs[name].shape)} for {list(tensor.shape)}"
        for name, tensor in ours.items()
        if name in theirs and name not in new and theirs[name].shape != tensor.shape
    ]
    try:
        _complain(folder, {"missing": missing, "unknown": unknown, "of another shape": shapes})
    except FileError as error:
        told = str(error).rpartition(". Take")[0].replace("of its config.json", "of the model", 1)
        advice = "Name what is to start anew in init_new, or choose the model that these weights are of."
        raise FileError(f"{told}. {advice}") from None


def read_config(folder: str | Path) -> Config:
    """Returns the config of the model that a folder holds; errors are those of `load_model`."""
    folder = Path(folder)
    sealed = seal.is_sealed(folder)
    if sealed:
        seal.verify_file(folder, "config.json", SEALED)
    theirs, dialect = _config_json(folder)
    for name in getattr(dialect, "BESIDE", ()):
        if sealed and name in theirs:
            seal.verify_file(folder, name, SEALED)
    return _translate(folder, theirs, dialect)


def verify_model(folder: str | Path) -> bool:
    """Checks every byte of a model folder that has a manifest, and tells whether it has one.

    Raises:
        FileError: A file is not what the manifest says; named are the file and the tensor.
    """
    if not seal.is_sealed(Path(folder)):
        return False
    seal.verify(Path(folder), SEALED)
    return True


def _verify(folder: Path) -> None:
    try:
        verify_model(folder)
    except FileError as error:
        advice = f" If the change is meant, remove {folder / seal.MANIFEST}."
        raise FileError(f"{error}{advice}", name=error.name) from error


def save_model(
    model: nn.Module,
    folder: str | Path,
    extra_files: Mapping[str, bytes] | None = None,
    eos_id: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    labels: Sequence[str] | None = None,
    adapter: adapters.Adapter | None = None,
) -> None:
    """Writes a model folder that is afterwards whole or, on any failure, as it was.

    It opens in `transformers` where the architecture has a class there; else it has our own form. All of it but the
    card, `README.md`, is under the seal of `manifest.json`.

    Args:
        model: Any of our models.
        folder: Replaced if it exists.
        extra_files: Further files by name, such as the tokenizer's.
        eos_id: The token that ends a text, which generation elsewhere must know.
        shard_bytes: The size above which the weights are split into several files.
        labels: The name of each class, of a classifier.
        adapter: What stands beside the weights, in the folder `adapter` of it.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    values = _values(model)
    written = ((dialect, dialect.write_config(values)) for dialect in dialects())
    dialect, config = next((found for found in written if found[1] is not None), (own_form(), None))
    config = config or dialect.write_config(values)
    tensors = model.state_dict()
    dtype = _TYPE_NAMES.get(next(t.dtype for t in tensors.values() if t.is_floating_point()), "float32")
    ends = {"bos_token_id": eos_id, "eos_token_id": eos_id} if eos_id is not None or labels is None else _named(labels)
    layout = dialect.layout(values, tensors)
    bare = dialect.PREFIX if config.get("architectures") == [getattr(dialect, "BARE", None)] else ""
    beside = adapters.written(adapter, tensors, layout, bare) if adapter is not None else {}
    inner = {f"{adapters.FOLDER}/{name}": content for name, content in beside.items()}
    shards = _shards(layout, tensors, shard_bytes)
    names = [piece.name for pieces in layout.values() for piece in pieces]
    counters = dialect.counters(names) if hasattr(dialect, "counters") else []
    _check_space(Path(folder), sum(tensor.nbytes for tensor in tensors.values()))
    with files.new_folder(folder) as temporary:
        files.write_json(temporary / "config.json", {**config, **ends, "dtype": dtype, "torch_dtype": dtype})
        generation = {key: config[key] for key in _OF_GENERATION if key in config} | ({} if eos_id is None else ends)
        start = config.get("decoder_start_token_id")
        if eos_id is not None and start not in (None, eos_id):
            generation["bad_words_ids"] = [[start]]  # what begins a text is never written, as in our own search
        files.write_json(temporary / "generation_config.json", generation)
        _write_shards(temporary, shards, tensors, counters)
        settings = dialect.write_beside(values) if hasattr(dialect, "write_beside") else {}
        for name, content in {**settings, **(extra_files or {}), **inner}.items():
            target = files.inside(temporary, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            files.write_whole(target, content)
        seal.seal(temporary, SEALED)


def _named(labels: Sequence[str]) -> dict[str, Any]:
    """Returns the names of classes as transformers has them."""
    return {
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }


class _Part(NamedTuple):
    """A stored tensor and the place in our model it belongs to."""

    ours: str
    piece: Piece
    stored: Stored


@contextlib.contextmanager
def _explained(folder: Path, wish: str) -> Iterator[None]:
    """Turns what a nonsensical config.json leads to into one sentence."""
    try:
        yield
    except FileError:
        raise
    except (UsageError, LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise FileError(f"{folder}/config.json {wish}, but does not: {reason}.") from error


def _config_json(folder: Path) -> tuple[Mapping[str, Any], ModuleType]:
    """Returns config.json and its dialect."""
    path = files.member(folder, "config.json")
    if not path.exists():
        what = "does not exist" if not folder.exists() else "has no config.json"
        raise UsageError(f"{folder} must be a model folder, but {what}. Check the path.", name="E-PATH")
    theirs = files.read_settings(path)
    if theirs.get("quantization_config"):
        raise FileError(f"{path} must describe plain weights, but they are quantized. Take the unquantized model.")
    dialect = dialect_of(theirs)
    beside = {name: files.member(folder, name) for name in getattr(dialect, "BESIDE", ())}
    return {**theirs, **{name: files.read_json(path) for name, path in beside.items() if path.exists()}}, dialect


def _values(model: nn.Module) -> dict[str, Any]:
    """Returns the values of a model's config, with derived sizes written out where there are such."""
    config: Any = model.config
    return (config.filled() if hasattr(config, "filled") else config).model_dump(mode="json")


def _translate(folder: Path, theirs: Mapping[str, Any], dialect: ModuleType) -> Config:
    with _explained(folder, "must describe a model"):
        values = dialect.read_config(theirs)
        return validate(find_part("models", values["name"]).PART, values)


def _match(folder: Path, dialect: ModuleType, model: nn.Module, stored: Mapping[str, Stored]) -> list[_Part]:
    """Pairs each tensor in the files with its place in the model.

    Raises:
        FileError: Naming what is unknown, missing, or of another shape or kind.
    """
    ours = model.state_dict()
    with _explained(folder, "must be that of the model"):
        layout: Layout = dialect.layout(_values(model), ours)
    wanted = {piece.name: (name, piece) for name, pieces in layout.items() for piece in pieces}
    found, unknown = {}, []
    for name, tensor in stored.items():
        full = _full_name(dialect, name, wanted)
        if full in found or not (full in wanted or full in dialect.TIED or re.fullmatch(dialect.IGNORED, full)):
            unknown.append(name)
        found[full] = tensor
    for copy, first in dialect.TIED.items():  # some writers save the second alone
        if first in wanted and first not in found and copy in found:
            found[first] = found[copy]
    missing = [name for name in wanted if name not in found]
    parts = [_Part(*wanted[name], found[name]) for name in wanted if name in found]
    misfits = [text for part in parts if (text := _misfit(part, ours[part.ours]))]
    untied = [
        f"{copy} differs from {first}"
        for copy, first in dialect.TIED.items()
        if copy not in wanted and copy in found and first in found
        if not torch.equal(found[copy].read(), found[first].read())
    ]
    _complain(folder, {"missing": missing, "unknown": unknown, "of another kind": misfits, "not tied": untied})
    return parts


def _full_name(dialect: ModuleType, name: str, wanted: Mapping[str, Any]) -> str:
    """Returns the name of a tensor as the dialect has it today, with the prefix that some writers leave out."""
    name = dialect.renamed(name) if hasattr(dialect, "renamed") else name
    plain = name in wanted or name in dialect.TIED or name.startswith(dialect.PREFIX)
    return name if plain else dialect.PREFIX + name


def _complain(folder: Path, faults: Mapping[str, Sequence[str]]) -> None:
    """Raises one error that says how many tensors are at fault and names the first few, if any are."""
    told = [
        f"{len(names)} {'is' if len(names) == 1 else 'are'} {kind} ({', '.join(names[:5])}{', ...' * (len(names) > 5)})"
        for kind, names in faults.items()
        if names
    ]
    if told:
        raise FileError(
            f"{folder} must hold exactly the tensors of its config.json, but {'; '.join(told)}. "
            "Take config.json and weights of the same model."
        )


def _misfit(part: _Part, ours: Tensor) -> str:
    """Says how a stored tensor differs in shape or kind from what is wanted, or nothing."""
    wanted, stored = _foreign_shape(part.piece, ours), part.stored
    if stored.shape != wanted:
        return f"{part.piece.name} is {list(stored.shape)} for {list(wanted)}"
    if stored.dtype is None or stored.dtype.is_floating_point != ours.is_floating_point():
        return f"{part.piece.name} is {stored.dtype or 'quantized'} for {ours.dtype}"
    return ""


def _widest(parts: Sequence[_Part]) -> torch.dtype:
    types = (part.stored.dtype for part in parts)
    return functools.reduce(
        torch.promote_types, (kind for kind in types if kind is not None and kind.is_floating_point)
    )


def _foreign_shape(piece: Piece, ours: Tensor) -> tuple[int, ...]:
    shape = tuple(ours.shape)
    if piece.rows is not None:
        shape = (piece.rows[1] - piece.rows[0], *shape[1:])
    if piece.window is not None:
        return (shape[0], shape[1] // piece.window**2, piece.window, piece.window)
    if piece.as_row:
        return (1, *shape)
    return shape[::-1] if piece.transposed else shape


def _turned(piece: Piece, tensor: Tensor) -> Tensor:
    """Returns a tensor in the other's orientation; a view."""
    if piece.as_row:
        return tensor[0] if tensor.ndim == 2 else tensor[None]
    return tensor.T if piece.transposed else tensor


@torch.no_grad()
def _copy(model: nn.Module, parts: Sequence[_Part]) -> None:
    ours = model.state_dict()
    for part in parts:
        theirs = part.stored.read()
        theirs = theirs.flatten(1) if part.piece.window is not None else theirs
        adapters.rows(part.piece, ours[part.ours]).copy_(_turned(part.piece, theirs))


def _shards(layout: Layout, tensors: Mapping[str, Tensor], limit: int) -> list[list[tuple[str, Piece]]]:
    """Groups all pieces, in order, into files of at most `limit` bytes (or one piece, if that is larger)."""
    shards: list[list[tuple[str, Piece]]] = [[]]
    size = 0
    for name, pieces in layout.items():
        for piece in pieces:
            own = adapters.rows(piece, tensors[name]).nbytes
            if shards[-1] and size + own > limit:
                shards.append([])
                size = 0
            shards[-1].append((name, piece))
            size += own
    return shards


def _write_shards(
    folder: Path, shards: Sequence[Sequence[tuple[str, Piece]]], tensors: Mapping[str, Tensor], counters: Sequence[str]
) -> None:
    weight_map: dict[str, str] = {}
    count = len(shards)
    for number, shard in enumerate(shards, start=1):
        name = "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
        # One shard at a time is copied to the CPU and turned; what needs neither is not copied.
        content = {
            piece.name: _turned(piece, adapters.rows(piece, tensors[ours])).detach().cpu().contiguous()
            for ours, piece in shard
        }
        if number == count:
            content |= {name: torch.zeros((), dtype=torch.int64) for name in counters}
        weight_map |= dict.fromkeys(content, name)
        try:
            with files.explained(folder / name, "written"):
                save_file(content, folder / name, metadata={"format": "pt"})
        except SafetensorError as error:
            raise ResourceError(
                f"{folder / name} cannot be written: {error}. Free some space.", name="E-DISK"
            ) from error
    if count > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        files.write_json(folder / "model.safetensors.index.json", index)


def _check_space(folder: Path, needed: int) -> None:
    free = files.free_bytes(folder)
    if needed > free:
        raise ResourceError(
            f"{folder} needs {needed / 1e6:.1f} MB, but {free / 1e6:.1f} MB are free. Free some space, or choose "
            "another folder.",
            name="E-DISK",
        )
