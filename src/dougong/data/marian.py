"""The text of Marian folders (`Helsinki-NLP/opus-mt-*`): a SentencePiece model for each side, and a table of ids.

The table is `vocab.json`, of both sides or, with `separate_vocabs`, of the source alone. Ids are those of
`MarianTokenizer` of transformers. Knows these files; does not know the models that read the ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dougong.core import files
from dougong.core.errors import FileError
from dougong.data.sentencepiece import CONTROL, SPACE, Cutter, PieceModel, read_model

SOURCE_PIECES, TARGET_PIECES = "source.spm", "target.spm"
SOURCE_IDS, TARGET_IDS = "vocab.json", "target_vocab.json"
_SPECIAL = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}
_MOST_TOKENS = 1 << 20
_BEGIN, _END = ">>", "<<"


@dataclass(frozen=True)
class Side:
    """How the text of one side becomes ids, and ids text.

    Attributes:
        backend: A vocabulary of the `tokenizers` library, which has the ids and decodes them; it does not cut text.
        files: What the whole folder is made of, by name.
        fingerprint: A hash of what this side is cut by.
        joint: Whether both sides have the same ids.
        cutter: What cuts text into pieces.
        ids: The id of each piece that text may have.
        unknown_id: That of all others.
    """

    backend: Any
    files: Mapping[str, bytes]
    fingerprint: str
    joint: bool
    cutter: Cutter
    ids: Mapping[str, int]
    unknown_id: int

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text; those of special tokens are never among them, but for the unknown's.

        A text may begin with the code of a language to translate into, `>>fra<<`, which is one token.
        """
        coded = [_code(text) for text in texts]
        cut = self.cutter([text for _, text in coded])
        return [
            [self.ids.get(piece, self.unknown_id) for piece in [*code, *pieces]]
            for (code, _), pieces in zip(coded, cut, strict=True)
        ]


def is_marian(folder: str | Path) -> bool:
    """Tells whether a folder has the text files of Marian."""
    return all(files.member(folder, name).exists() for name in (SOURCE_PIECES, SOURCE_IDS))


def read_sides(folder: str | Path, settings: Mapping[str, Any]) -> tuple[Side, Side]:
    """Returns both sides of a folder: the source's and the target's.

    Args:
        folder: A Marian folder.
        settings: What `tokenizer_config.json` says.

    Raises:
        UsageError: A file does not exist.
        FileError: A file is broken, or the ids are none.
    """
    joint = not settings.get("separate_vocabs")
    paths = {name: files.member(folder, name) for name in (SOURCE_PIECES, TARGET_PIECES, SOURCE_IDS)}
    if not joint:
        paths[TARGET_IDS] = files.member(folder, TARGET_IDS)
    models = [read_model(paths[name]) for name in (SOURCE_PIECES, TARGET_PIECES)]
    special = {name: _named(settings.get(name), default) for name, default in _SPECIAL.items()}
    tables = [_ids(path, special["unk_token"]) for name, path in paths.items() if name in (SOURCE_IDS, TARGET_IDS)]
    kept = {name: files.read_bytes(path) for name, path in paths.items()}
    decoded = models[:1] if joint else models[1:]
    source, target = (_side(model, ids, special, decoded, kept) for model, ids in zip(models, tables * 2, strict=False))
    return source, target


def _side(
    model: PieceModel,
    ids: Mapping[str, int],
    special: Mapping[str, str],
    controls: Sequence[PieceModel],
    kept: Mapping[str, bytes],
) -> Side:
    from tokenizers import Regex, decoders, models
    from tokenizers import Tokenizer as Backend

    unknown = special["unk_token"]
    apart = [*special.values(), *(piece.text for each in controls for piece in each.pieces if piece.kind == CONTROL)]
    apart = [token for token in dict.fromkeys(apart) if token in ids]
    backend = Backend(models.WordLevel(dict(ids), unk_token=unknown))
    spaces: Any = Regex(r"\A +| +\z")  # the library's Strip fails on text that is nothing else
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.Fuse(), decoders.Replace(spaces, "")])
    backend.add_special_tokens(apart)
    known = {token: number for token, number in ids.items() if token not in apart}
    return Side(backend, kept, model.fingerprint, TARGET_IDS not in kept, Cutter(model), known, ids[unknown])


def _code(text: str) -> tuple[list[str], str]:
    """Returns the code of a language that a text begins with, if it does, and the rest."""
    end = text.find(_END) + len(_END) if text.startswith(_BEGIN) else 0
    return ([text[:end]], text[end:]) if end >= len(_END) else ([], text)


def _named(said: Any, default: str) -> str:
    """Returns the special token that settings name, in one of the two forms that these have."""
    said = said.get("content") if isinstance(said, dict) else said
    return said if isinstance(said, str) else default


def _ids(path: Path, unknown: str) -> dict[str, int]:
    """Returns a table of ids.

    Raises:
        FileError: It is none, or has not the token of what is unknown.
    """
    table: Any = files.read_json(path)
    numbers = list(table.values()) if isinstance(table, dict) else []
    if not numbers or not all(type(number) is int and 0 <= number < _MOST_TOKENS for number in numbers):
        raise FileError(f"{path} must give each token a number below {_MOST_TOKENS:,}, but does not. Fetch it again.")
    if len({*numbers}) < len(numbers) or unknown not in table:
        lacking = f"lacks {unknown}" if unknown not in table else "gives a number twice"
        raise FileError(f"{path} must give each token a number, also {unknown}, but {lacking}. Fetch it again.")
    return table
