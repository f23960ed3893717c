"""How a vocabulary of word pieces is learned: byte-pair merges within words, from the counts of the words.

The trainer of the `tokenizers` library numbers the letters of word pieces in the order of a hash table, which differs
from process to process, and breaks ties by these numbers. Here each continuing letter becomes a letter of its own, in
the planes of Unicode that have no meaning, and the library's trainer of byte pairs, which goes by code points, learns
from that. Knows words and counts; does not know tokenizers as a recipe names them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

PREFIX = "##"
_PRIVATE = 0xF0000  # begins two planes that BERT's normaliser leaves no character of
_MOST = 0x10FFFE - _PRIVATE
_AT_ONCE = 1000
_DROPPED = dict.fromkeys([0x0B, 0x0C, *range(0x1C, 0x20), 0x85])  # Python holds them for spaces, BERT drops them


def counted(texts: Iterable[str], normalizer: Any, cutter: Any) -> dict[str, int]:
    """Returns how often each word is there; what stands between spaces is normalised and cut once, however frequent."""
    chunks: Counter[str] = Counter()
    for text in texts:
        chunks.update(text.translate(_DROPPED).split())
    words: Counter[str] = Counter()
    for chunk, count in chunks.items():
        for word, _ in cutter.pre_tokenize_str(normalizer.normalize_str(chunk)):
            words[word] += count
    return words


def learned(words: Mapping[str, int], size: int) -> list[str]:
    """Returns at most so many pieces: the letters by code point, then what is merged, most frequent first.

    Letters fill half of the vocabulary at most, the rarest are left out with the words that have them: all of these
    are unknown words.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, trainers

    letters: Counter[tuple[bool, str]] = Counter()
    for word, count in words.items():
        for place, letter in enumerate(word):
            letters[place > 0, letter] += count
    kept = sorted(letters, key=lambda each: (-letters[each], each))[: min(size // 2, _MOST)]
    inner = sorted(letter for continues, letter in kept if continues)
    code = {(True, letter): chr(_PRIVATE + number) for number, letter in enumerate(inner)}
    code |= {(False, letter): letter for continues, letter in kept if not continues}
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False)
    backend.train_from_iterator(_written(words, code), trainer)
    return [_piece(token, inner) for token, _ in sorted(backend.get_vocab().items(), key=lambda item: item[1])]


def _written(words: Mapping[str, int], code: Mapping[tuple[bool, str], str]) -> Iterator[str]:
    """Yields each word as often as it is there, in letters of `code`; leaves out words that these cannot write."""
    for word, count in words.items():
        letters = [code.get((place > 0, letter)) for place, letter in enumerate(word)]
        if None not in letters:
            written = "".join(letter for letter in letters if letter is not None) + " "
            for start in range(0, count, _AT_ONCE):
                yield written * min(_AT_ONCE, count - start)


def _piece(token: str, inner: list[str]) -> str:
    """Returns a token in the letters of text, marked if it continues a word."""
    text = "".join(inner[ord(letter) - _PRIVATE] if ord(letter) >= _PRIVATE else letter for letter in token)
    return PREFIX + text if ord(token[0]) >= _PRIVATE else text
