"""The tokenizers that a recipe can name, and how each comes by its vocabulary.

Knows texts as streams; does not know sources, splits or caches. The configs are here, so what makes a tokenizer is
imported where one is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from dougong.core.config import Config, Fault
from dougong.core.errors import FileError
from dougong.core.log import warn

if TYPE_CHECKING:
    from dougong.data.tokenizer import Tokenizer

Texts = Callable[[], Iterable[str]]
UNKNOWN = "[UNK]"
"""The token of words that have none of their own."""
PAD, MASK = "[PAD]", "[MASK]"
FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
"""The tokens before the beginning, the end and the middle of a text whose middle is to be filled in."""
_EOT = "<|endoftext|>"  # as in tokenizer.py, which takes arrays to import


class BytesConfig(Config):
    """One token per byte of UTF-8: 257 tokens, no text is unknown."""

    name: Literal["bytes"] = "bytes"
    """Which tokenizer."""

    def build(self, training: Texts, everything: Texts) -> Tokenizer:
        """Makes the tokenizer; needs no text. The id of a byte is its value, and 256 ends a text."""
        from tokenizers import pre_tokenizers

        from dougong.data.tokenizer import byte_alphabet

        return _byte_level(byte_alphabet(), [], pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))


class CharsConfig(Config):
    """One token per character that the text has."""

    name: Literal["chars"] = "chars"
    """Which tokenizer."""

    def build(self, training: Texts, everything: Texts) -> Tokenizer:
        """Makes the tokenizer; ids follow code points, the last one ends a text.

        The alphabet is that of the whole text, validation too (as nanoGPT has it): a character seen only there would
        otherwise have no id. Nothing else of the validation text is used.

        Raises:
            FileError: The text has no character.
        """
        from tokenizers import Tokenizer as Backend
        from tokenizers import decoders, models

        from dougong.data.tokenizer import EOT, Tokenizer

        characters: set[str] = set()
        for text in everything():
            characters.update(text)
        if not characters:
            raise FileError("the text must have characters to make a vocabulary of, but is empty. Add text.")
        backend = Backend(models.BPE({character: number for number, character in enumerate(sorted(characters))}, []))
        backend.decoder = decoders.Fuse()
        backend.add_special_tokens([EOT])
        return Tokenizer(backend)


class BpeConfig(Config):
    """Byte-pair encoding of bytes, learned from the training text as in GPT-2."""

    name: Literal["bpe"] = "bpe"
    """Which tokenizer."""
    vocab_size: Annotated[int, Field(ge=257)] = 8192
    """Tokens, with the 256 bytes and the end of text."""
    learn_from: Annotated[int, Field(ge=1)] = 200_000_000
    """Characters of training text to learn from; the text's beginning is taken, evenly from all sources."""
    special: tuple[str, ...] = ()
    """Further special tokens, such as `<|fim_prefix|>`, which no text yields; counted in `vocab_size`."""

    def faults(self) -> Iterator[Fault]:
        """Yields the faults of special tokens that are no names, or one, and of a vocabulary too small for them."""
        for number, token in enumerate(self.special):
            if not re.fullmatch(
                r"<\S*[^\W_]\S*>", token
            ):  # whatever else might be learned from text, and be given its id
                yield Fault(f"special[{number}]", f"must be like <|fim_prefix|>, but is {token!r}. Rename it.")
            elif token == _EOT or token in self.special[:number]:
                yield Fault(f"special[{number}]", f"must be a token of its own, but {token!r} is there. Remove it.")
        if self.vocab_size < 257 + len(self.special):
            least = 257 + len(self.special)
            yield Fault("vocab_size", f"must be at least {least}, with the special tokens, but is {self.vocab_size}.")

    def build(self, training: Texts, everything: Texts) -> Tokenizer:
        """Learns the merges; the same text gives the same vocabulary, whatever the number of threads."""
        from tokenizers import pre_tokenizers, trainers

        from dougong.data.tokenizer import EOT, Tokenizer, byte_alphabet

        alphabet = sorted(byte_alphabet())
        tokenizer = _byte_level({}, [], pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True))
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=[EOT, *self.special],
            initial_alphabet=alphabet,
            show_progress=False,
        )
        tokenizer.backend.train_from_iterator(_head(training(), self.learn_from), trainer)
        return _told_if_small(Tokenizer(tokenizer.backend), self.vocab_size)


class WordPieceConfig(Config):
    """BERT's word pieces, learned from the training text: words are cut into a beginning and `##` continuations."""

    name: Literal["wordpiece"] = "wordpiece"
    """Which tokenizer."""
    vocab_size: Annotated[int, Field(ge=32)] = 30522
    """Tokens, with the five special ones: `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]`, `[MASK]`, which are 0 to 4."""
    lowercase: bool = True
    """Whether capitals and accents are dropped, as in BERT uncased."""
    learn_from: Annotated[int, Field(ge=1)] = 200_000_000
    """Characters of training text to learn from; the text's beginning is taken, evenly from all sources."""

    def build(self, training: Texts, everything: Texts) -> Tokenizer:
        """Learns the pieces; the same text gives the same vocabulary.

        Raises:
            FileError: The text has no word.
        """
        from tokenizers import Tokenizer as Backend
        from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

        from dougong.data.tokenizer import CLS, SEP, SETTINGS, Tokenizer
        from dougong.data.wordpiece import counted, learned

        normalizer = normalizers.BertNormalizer(lowercase=self.lowercase)
        special = [PAD, UNKNOWN, CLS, SEP, MASK]
        words = counted(_head(training(), self.learn_from), normalizer, pre_tokenizers.BertPreTokenizer())
        if not words:
            raise FileError("the text must have words to make a vocabulary of, but has none. Add text.")
        pieces = [*special, *learned(words, self.vocab_size - len(special))]
        backend = Backend(models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token=UNKNOWN))
        backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        backend.add_special_tokens(special)
        backend.post_processor = processors.TemplateProcessing(
            single=f"{CLS} $A {SEP}",
            pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
            special_tokens=[(token, special.index(token)) for token in (CLS, SEP)],
        )
        named = zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True)
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
        settings = {**SETTINGS, "model_input_names": inputs, **dict(named)}
        return _told_if_small(Tokenizer(backend, SEP, settings), self.vocab_size)


class WordsConfig(Config):
    """One token per word or run of punctuation, in lower case; words that are rare share one token for the unknown."""

    name: Literal["words"] = "words"
    """Which tokenizer."""
    min_count: Annotated[int, Field(ge=1)] = 1
    """How often a word must stand in the training text to have a token of its own."""

    def build(self, training: Texts, everything: Texts) -> Tokenizer:
        """Counts the words of the training text; ids follow the counts, and equal counts the alphabet.

        Raises:
            FileError: The text has no word that is frequent enough.
        """
        from collections import Counter

        from tokenizers import Tokenizer as Backend
        from tokenizers import models, normalizers, pre_tokenizers

        from dougong.data.tokenizer import EOT, Tokenizer

        normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        cutter = pre_tokenizers.Whitespace()
        counts = Counter(
            word for text in training() for word, _ in cutter.pre_tokenize_str(normalizer.normalize_str(text))
        )
        frequent = (word for word, count in counts.items() if count >= self.min_count)
        kept = sorted(frequent, key=lambda word: (-counts[word], word))
        if not kept:
            raise FileError(
                f"the text must have words to make a vocabulary of, but none stands there {self.min_count} times. "
                "Add text, or lower min_count."
            )
        special = [UNKNOWN, EOT]
        words = [*special, *(word for word in kept if word not in special)]
        backend = Backend(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=UNKNOWN))
        backend.normalizer, backend.pre_tokenizer = normalizer, cutter
        backend.add_special_tokens(special)
        return Tokenizer(backend)


class TokenizerFileConfig(Config):
    """A tokenizer that exists already: a `tokenizer.json`, or a folder that holds one, or the files of Marian."""

    name: Literal["file"] = "file"
    """Which tokenizer."""
    path: Path
    """The file or the folder."""
    eot: str | None = None
    """The token that ends a text; absent: the one its settings name, or a well-known one."""

    def build(self, training: Texts, everything: Texts) -> Tokenizer:
        """Opens it; needs no text."""
        from dougong.data.tokenizer import Tokenizer

        path = self.path.expanduser()
        return (Tokenizer.from_folder if path.is_dir() else Tokenizer.from_file)(path, self.eot)


TokenizerConfig = Annotated[
    BytesConfig | CharsConfig | WordsConfig | BpeConfig | WordPieceConfig | TokenizerFileConfig,
    Field(discriminator="name"),
]


def _told_if_small(tokenizer: Tokenizer, wanted: int) -> Tokenizer:
    """Returns the tokenizer, and says so if it has fewer tokens than wanted."""
    if tokenizer.vocab_size < wanted:
        warn(
            f"the tokenizer should have {wanted:,} tokens, but the text yields only "
            f"{tokenizer.vocab_size:,}. Add text, or lower vocab_size."
        )
    return tokenizer


def _byte_level(vocabulary: dict[str, int], merges: list[tuple[str, str]], pre_tokenizer: Any) -> Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models

    from dougong.data.tokenizer import EOT, Tokenizer

    backend = Backend(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([EOT])
    return Tokenizer(backend)


def _head(texts: Iterable[str], characters: int) -> Iterator[str]:
    """Yields texts until so many characters are given out; cuts the last one."""
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return
