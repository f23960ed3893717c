"""From text to token ids and back: one class over the `tokenizers` library.

Knows tokenizer files as data (nothing in them is executed); does not know how a vocabulary is learned (see
`vocabulary.py`), nor datasets.
"""

from __future__ import annotations

import codecs
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsInt

import numpy as np
from jaxtyping import Bool, Int

from dougong.core import files
from dougong.core.errors import FileError, UsageError

if TYPE_CHECKING:
    from dougong.data.marian import Side

EOT = "<|endoftext|>"
CLS, SEP = "[CLS]", "[SEP]"
_Ids = Sequence[int] | Int[np.ndarray, " _"]
_Row = Int[np.ndarray, " length"]
_EOT_ELSEWHERE = (EOT, "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "<|im_end|>", "[SEP]")
_MOST_TOKENS = 1 << 24  # ids have no holes to speak of; a single large one would take memory for all below it
SETTINGS: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}


class Tokenizer:
    """Token ids for text, and text for token ids.

    Text never yields the id of a special token: `<|endoftext|>` inside a document is eleven or so plain tokens. Only
    `eot_id` itself, put there by the program, ends a document.

    Args:
        backend: A `tokenizers.Tokenizer`; it is changed to treat special tokens in text as plain text.
        eot: The token that opens every document (and so ends the one before); it must be in the vocabulary.
        settings: What `tokenizer_config.json` said, to be written again by `save`.
        side: What cuts text, and is saved, in place of the backend: a side of a Marian folder.

    Attributes:
        target: What cuts translations: the tokenizer itself, but of a Marian folder the other side.
    """

    def __init__(self, backend: Any, eot: str = EOT, settings: dict[str, Any] | None = None, side: Side | None = None):
        if backend.token_to_id(eot) is None:
            raise UsageError(f"the end-of-text token must be in the vocabulary, but {eot!r} is not. Name another.")
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        if getattr(backend.model, "dropout", None):
            backend.model.dropout = None  # random merges would make ids depend on more than the text
        self.backend, self.eot, self._settings, self._side = backend, eot, settings, side
        self.target = self
        self.eot_id: int = backend.token_to_id(eot)
        self.vocab_size: int = max(backend.get_vocab(with_added_tokens=True).values()) + 1

    @classmethod
    def from_folder(cls, folder: str | Path, eot: str | None = None) -> Tokenizer:
        """Opens the `tokenizer.json` of a Hugging Face folder, with `tokenizer_config.json` where there is one.

        Where there is none, but the files of Marian are (`source.spm`, `vocab.json`), it is the source's side of these.

        Raises:
            UsageError: There is no `tokenizer.json`.
            FileError: It is no tokenizer, or has no end-of-text token.
            UntrustedError: The settings ask for code.
        """
        from dougong.data.marian import is_marian, read_sides

        path = files.member(folder, "tokenizer.json")
        if path.exists() or not is_marian(folder):
            return cls.from_file(path, eot)
        settings = _settings_beside(path) or {}
        sides = read_sides(folder, settings)
        named = [_find_eot(side.backend, settings, eot, path.parent) for side in sides]
        settings = {**settings, "tokenizer_class": "MarianTokenizer"}
        source, target = (cls(side.backend, end, settings, side) for side, end in zip(sides, named, strict=True))
        source.target = target
        return source

    @classmethod
    def from_file(cls, path: str | Path, eot: str | None = None) -> Tokenizer:
        """Opens a `tokenizer.json`; see `from_folder`."""
        import tokenizers

        raw = files.read_bytes(path)
        try:
            backend = tokenizers.Tokenizer.from_buffer(raw)
        except BaseException as error:  # the library's own panics are no Exceptions
            if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
                raise
            reason = str(error).split("\n")[0][:200]
            raise FileError(f"{path} must be a file of the tokenizers library, but is not: {reason}.") from error
        if max(backend.get_vocab(with_added_tokens=True).values(), default=0) >= _MOST_TOKENS:
            raise FileError(f"{path} must have token ids below {_MOST_TOKENS:,}, but has a larger one. Refused.")
        settings = _settings_beside(Path(path))
        return cls(backend, _find_eot(backend, settings, eot, path), settings)

    def save(self, folder: str | Path) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json`, which `transformers.AutoTokenizer` opens.

        A side of a Marian folder writes the files of both sides again.
        """
        settings = self._settings or {**SETTINGS, "bos_token": self.eot, "eos_token": self.eot}
        if self._side is None:
            files.write_whole(Path(folder) / "tokenizer.json", self.backend.to_str(pretty=True) + "\n")
        for name, content in self._side.files.items() if self._side is not None else ():
            files.write_whole(Path(folder) / name, content)
        files.write_json(Path(folder) / "tokenizer_config.json", settings)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of one text, without any special token, on this thread alone; errors as of `encode_batch`."""
        self._check(text)
        if self._side is not None:
            return self._side.encode_batch([text])[0]
        return self._plain(text, self.backend.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text; runs on all cores, and leaves other Python threads running.

        Raises:
            UsageError: A text has a character that a vocabulary of characters lacks, or a lone surrogate.
        """
        for text in texts:
            self._check(text)
        if self._side is not None:
            return self._side.encode_batch(texts)
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self._plain(text, encoding.ids) for text, encoding in zip(texts, encodings, strict=True)]

    def _check(self, text: str) -> None:
        if self._alphabet is not None and (unknown := set(text) - self._alphabet):
            first = min(unknown)
            raise UsageError(
                f"the vocabulary must have every character, but lacks {first!r} (U+{ord(first):04X}). "
                "Leave it out, or use the tokenizer bytes or bpe."
            )
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in set(text)):
            raise UsageError("text must be Unicode characters, but holds half a surrogate pair. Repair it.")

    def _plain(self, text: str, ids: list[int]) -> list[int]:
        """Splits what the vocabulary itself reads as a special token (unigram and word models may) into plain text."""
        if self._special.keys().isdisjoint(ids):
            return ids
        inside = (f"(?<={re.escape(word[:1])})(?={re.escape(word[1:])})" for word in self._special.values())
        parts = self.backend.encode_batch_fast(re.split("|".join(inside), text), add_special_tokens=False)
        return [token for part in parts for token in part.ids if token not in self._special]

    def framed(self, ids: _Ids, second: _Ids | None = None) -> tuple[_Row, _Row]:
        """Returns a text, or two, as a model of whole texts reads them, and which of the two each token belongs to.

        That is `[CLS] ids [SEP]` and, of a second, `second [SEP]` (segment 1), as in BERT. A vocabulary without these
        tokens has no frame: the ids stay as they are, and two texts have the end of text between them.

        Args:
            ids: The first text, as `encode` gives it.
            second: The second text.
        """
        cls, sep = self._frame
        first = [*ids] if cls is None else [cls, *ids, sep]
        if second is None:
            return np.array(first, dtype=np.int32), np.zeros(len(first), dtype=np.int32)
        first, rest = ([*first, sep], [*second]) if cls is None else (first, [*second, sep])
        segments = np.repeat(np.array([0, 1], dtype=np.int32), [len(first), len(rest)])
        return np.array([*first, *rest], dtype=np.int32), segments

    def frame_size(self, pair: bool) -> int:
        """Returns how many tokens `framed` adds to a text, or to a pair."""
        return int(pair) + (0 if self._frame[0] is None else 2)

    def id_of(self, token: str) -> int | None:
        """Returns the id of a special token, such as `[MASK]`; None if the vocabulary has none of this name."""
        number = self.backend.token_to_id(token)
        return number if number in self.special_ids else None

    @functools.cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids that stand for no text of their own: of the frame, of masks, of padding, of unknown words."""
        added = self.backend.get_added_tokens_decoder().items()
        return frozenset({self.eot_id, *(number for number, token in added if token.special)})

    @functools.cached_property
    def continues(self) -> Bool[np.ndarray, " vocab"]:
        """Which tokens go on with the word before them: those that word pieces mark with `##`; elsewhere none."""
        found = np.zeros(self.vocab_size, dtype=bool)
        if self._description["model"]["type"] == "WordPiece":
            prefix = self._description["model"]["continuing_subword_prefix"]
            for token, number in self.backend.get_vocab(with_added_tokens=True).items():
                found[number] = token.startswith(prefix) and token != prefix and number not in self.special_ids
        return found

    @functools.cached_property
    def _frame(self) -> tuple[int | None, int]:
        """The tokens before and after a text; where there is no frame, None and the end of text."""
        cls, sep = self.id_of(CLS), self.id_of(SEP)
        return (None, self.eot_id) if cls is None or sep is None else (cls, sep)

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """Returns the text of ids; special tokens are left out, bytes that are no UTF-8 become U+FFFD."""
        return self.backend.decode([int(token) for token in ids], skip_special_tokens=True)

    def decode_stream(self, ids: Iterable[SupportsInt]) -> Iterator[str]:
        """Yields the text of ids as they come, never half a character; special tokens are left out.

        The pieces joined are the text of the ids as a continuation: where `decode` drops the space before a first
        word (SentencePiece), or before a full stop (WordPiece), this keeps it.
        """
        stream = self.stream()
        for token in ids:
            if piece := stream.push(int(token)):
                yield piece
        if piece := stream.end():
            yield piece

    def stream(self) -> TextStream:
        """Returns what turns ids into text one at a time."""
        return TextStream(self._token_text)

    @functools.cached_property
    def token_bytes(self) -> Int[np.ndarray, " vocab"]:
        """How many bytes of UTF-8 each token stands for; 0 for special tokens.

        For bytes, characters and byte-level BPE these sum to exactly the bytes of the text; for vocabularies that
        normalise the text or add spaces, to the bytes of what they make of it.
        """
        return np.array([len(text) for text in self._token_text], dtype=np.int64)

    def shares_ids(self, other: Tokenizer) -> bool:
        """Tells whether another has the same vocabulary by design: it is this one, or the other side of one folder."""
        return other is self or (other is self.target and self._side is not None and self._side.joint)

    def agrees(self, other: Tokenizer) -> bool:
        """Tells whether each id that both have stands for the same token; either may have more."""
        theirs = {number: token for token, number in other.backend.get_vocab(with_added_tokens=True).items()}
        ours = self.backend.get_vocab(with_added_tokens=True).items()
        return all(theirs.get(number, token) == token for token, number in ours)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the vocabulary and its rules: equal fingerprints give equal ids."""
        facts = [self.backend.to_str(), self.eot, *([] if self._side is None else [self._side.fingerprint])]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()

    @functools.cached_property
    def _special(self) -> dict[int, str]:
        """Special tokens by id, but for the one that stands for unknown text, which text may well yield."""
        model = self._description["model"]
        unknown = model.get("unk_token")
        if model.get("unk_id") is not None:
            unknown = self.backend.id_to_token(model["unk_id"])
        added = self.backend.get_added_tokens_decoder().items()
        return {
            number: token.content
            for number, token in added
            if number == self.eot_id or (token.special and token.content != unknown)
        }

    @functools.cached_property
    def _alphabet(self) -> frozenset[str] | None:
        """The characters of a vocabulary that drops all others without a word, or None: then none is dropped."""
        description, model = self._description, self._description["model"]
        drops = model["type"] == "BPE" and not model.get("unk_token") and not model.get("byte_fallback")
        if not drops or description["normalizer"] or description["pre_tokenizer"]:
            return None
        return frozenset(token for token in model["vocab"] if len(token) == 1)

    @functools.cached_property
    def _token_text(self) -> list[bytes]:
        """The bytes of UTF-8 that each token stands for; none for special tokens."""
        decoder = json.dumps(self._description["decoder"])
        pieces = _word_piece if '"WordPiece"' in decoder else _sentence_piece
        read = _byte_level if '"ByteLevel"' in decoder else pieces
        texts = [b""] * self.vocab_size
        for token, number in self.backend.get_vocab(with_added_tokens=True).items():
            texts[number] = read(token)
        for number, token in self.backend.get_added_tokens_decoder().items():
            texts[number] = b"" if number in self._special or token.special else token.content.encode()
        return texts

    @functools.cached_property
    def _description(self) -> dict[str, Any]:
        return json.loads(self.backend.to_str())


class TextStream:
    """Turns ids into text as they come, and holds back the bytes that are not yet a whole character."""

    def __init__(self, token_text: Sequence[bytes]):
        self._token_text = token_text
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Returns the text that this token completes, which may be empty."""
        known = 0 <= token < len(self._token_text)
        return self._decoder.decode(self._token_text[token] if known else b"")

    def end(self) -> str:
        """Returns U+FFFD if the ids ended inside a character, or nothing."""
        return self._decoder.decode(b"", final=True)


@functools.cache
def byte_alphabet() -> dict[str, int]:
    """Returns the byte for each of the 256 characters that byte-level vocabularies write for bytes (GPT-2's table)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


def _byte_level(token: str) -> bytes:
    table = byte_alphabet()
    return bytes(table[character] for character in token if character in table)


def _sentence_piece(token: str) -> bytes:
    """Reads `<0x0A>` as one byte, the lower-eighth block as a space, and drops the marks of word pieces."""
    if re.fullmatch("<0x[0-9A-F]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.removeprefix("##").replace("\u2581", " ").encode()


def _word_piece(token: str) -> bytes:
    """Reads `##ing` as letters that follow without a space; whatever else begins with one."""
    return (token.removeprefix("##") if token.startswith("##") and token != "##" else f" {token}").encode()


def _settings_beside(path: Path) -> dict[str, Any] | None:
    """Returns the `tokenizer_config.json` beside a tokenizer file, or None."""
    beside = files.member(path.parent, "tokenizer_config.json")
    if not beside.exists():
        return None
    return files.read_settings(beside)


def _find_eot(backend: Any, settings: dict[str, Any] | None, wanted: str | None, path: str | Path) -> str:
    """Returns the end-of-text token: the one wanted, else the one the settings name, else a well-known one."""
    named = (settings or {}).get("eos_token")
    named = named.get("content") if isinstance(named, dict) else named
    candidates = [wanted] if wanted else [named, *_EOT_ELSEWHERE]
    for candidate in candidates:
        if isinstance(candidate, str) and backend.token_to_id(candidate) is not None:
            return candidate
    looked = repr(wanted) if wanted else ", ".join(_EOT_ELSEWHERE)
    raise FileError(f"{path} must have an end-of-text token, but has none of: {looked}. Name one with eot.")
