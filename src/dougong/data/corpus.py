"""Running text, read, split and tokenized once: what every dataset of documents begins with.

Knows sources, splits, tokenizers and shards, and the cache they are kept in; does not know rows, pieces or batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from dougong.core import files
from dougong.core.errors import FileError
from dougong.core.log import say
from dougong.data.shards import Shards, once, prepare
from dougong.data.source import SourceConfig
from dougong.data.split import Divided, ValidationConfig
from dougong.data.tokenizer import Tokenizer
from dougong.data.vocabulary import BpeConfig, CharsConfig, TokenizerConfig, WordPieceConfig


def read(
    sources: Sequence[SourceConfig],
    tokenizer: TokenizerConfig,
    validation: ValidationConfig,
    cache: Path | None,
) -> tuple[Tokenizer, list[Shards]]:
    """Returns the tokenizer and the shards of each source, made now or found in the cache.

    Raises:
        UsageError: A path does not exist.
        FileError: The text is broken, or what the cache holds was changed.
    """
    folder = cache or files.cache_folder()
    divided = [Divided(source.build(), validation) for source in sources]
    made = _tokenizer(tokenizer, divided, folder)
    return made, [prepare(part, made, folder) for part in divided]


def _tokenizer(config: TokenizerConfig, divided: Sequence[Divided], cache: Path) -> Tokenizer:
    """Makes the tokenizer, or finds it in the cache if it had to be learned."""

    def texts(everything: bool) -> Iterator[str]:
        return _by_turns([part.texts(everything) for part in divided])

    def build() -> Tokenizer:
        return config.build(lambda: texts(False), lambda: texts(True))

    if not isinstance(config, BpeConfig | CharsConfig | WordPieceConfig):
        return build()
    facts = [part.source.fingerprint for part in divided] + [config, divided[0].config]
    folder = cache / f"tokenizer-{hashlib.sha256(repr(facts).encode()).hexdigest()[:24]}"
    with once(folder) as absent:
        if absent:
            say(f"learning the tokenizer {config.name}")
            with files.new_folder(folder) as partial:
                tokenizer = build()
                tokenizer.save(partial)
                files.write_json(partial / "manifest.json", {"fingerprint": tokenizer.fingerprint})
    tokenizer = Tokenizer.from_folder(folder)
    if files.read_json(folder / "manifest.json") != {"fingerprint": tokenizer.fingerprint}:
        raise FileError(f"{folder} must hold the tokenizer as it was written, but it was changed. Delete it.")
    return tokenizer


def _by_turns(streams: Sequence[Iterator[str]]) -> Iterator[str]:
    """Yields one text of each stream in turn, until all are at their end."""
    left = list(streams)
    while left:
        for stream in list(left):
            text = next(stream, None)
            if text is None:
                left.remove(stream)
            else:
                yield text
