"""The tokenizers that a recipe can name, and how each comes by its vocabulary.

Knows texts as streams; does not know sources, splits or caches. The configs are here, so what makes a tokenizer is
imported where one is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from dougong.core.config import Config
from dougong.core.errors import FileError
from dougong.core.log import warn

if TYPE_CHECKING:
    from dougong.data.tokenizer import Tokenizer

Texts = Callable[[], Iterable[str]]
UNKNOWN = "[UNK]"
"""The token of words that have none of their own."""


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

    def build(self, training: Texts, everything: Texts) -> Tokenizer:
        """Learns the merges; the same text gives the same vocabulary, whatever the number of threads."""
        from tokenizers import pre_tokenizers, trainers

        from dougong.data.tokenizer import EOT, Tokenizer, byte_alphabet

        alphabet = sorted(byte_alphabet())
        tokenizer = _byte_level({}, [], pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True))
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size, special_tokens=[EOT], initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.backend.train_from_iterator(_head(training(), self.learn_from), trainer)
        tokenizer = Tokenizer(tokenizer.backend)
        if tokenizer.vocab_size < self.vocab_size:
            warn(
                f"the tokenizer should have {self.vocab_size:,} tokens, but the text yields only "
                f"{tokenizer.vocab_size:,}. Add text, or lower vocab_size."
            )
        return tokenizer


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
    """A tokenizer that exists already: a `tokenizer.json`, or a folder that holds one."""

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
    BytesConfig | CharsConfig | WordsConfig | BpeConfig | TokenizerFileConfig, Field(discriminator="name")
]


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
