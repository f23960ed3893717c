"""A small folder of text files as Marian has them: real SentencePiece models, and a table of ids in another order."""

from __future__ import annotations

import functools
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

ENGLISH = (
    "the cat sat on the mat and read a book",
    "people write programs, and computers read them",
    "“déjà vu” – that is what others say, isn’t it?",
    "Ｆｕｌｌ letters count 12,5 % or ½ of that",
    "a number of things are on the table",
    "where is the house with the red door?",
    "she said: “I have read many books!”",
    "while it rained we sat and talked",
)
FRENCH = (
    "le chat était assis sur le tapis et lisait un livre",
    "«Où est-ce ?» dit-il, l’élève n’a rien écrit",
    "la maison à la porte rouge, ça va être ici",
    "Привет, мир! Как дела?",
    "les gens écrivent des programmes et des livres",
    "Das schöne Haus über der Straße – ja!",
    "数据 很 多 的",
    "elle a lu beaucoup de livres cet été",
)
CODE = ">>fra<<"
LETTERS = (
    "abcdefgh éÉe\u0301ßÄöＦｕ①ﬁ½ ¨ “”«»…–—’ \u00a0\u3000\t\n\u200b\u200d\ufeff\u2581数据Привет😀👍🏽１２3한글각㌀㍿ﷺ"
    "\u0308\x00\x01\x7f\u0085\u2028<>/sr%"
)
"""Letters that are learned, unknown, written otherwise, combined, invisible, or spaces of some kind."""


@functools.cache
def pieces_model(lines: Sequence[str], size: int = 200, rules: str = "nmt_nfkc", **options: object) -> bytes:
    """Returns the file of a unigram model learned from lines, in the order of many draws from their words."""
    spm = pytest.importorskip("sentencepiece")
    dice, words = random.Random(0), " ".join(lines).split(" ")
    drawn = [*lines, *(" ".join(dice.sample(words, dice.randint(3, 9))) for _ in range(400))]
    written = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(drawn), model_writer=written, vocab_size=size, minloglevel=2, hard_vocab_limit=False,
        normalization_rule_name=rules, num_threads=1, **options,
    )  # fmt: skip
    return written.getvalue()


def pieces_of(model: bytes) -> list[str]:
    """Returns the pieces of a file, without those that stand for no text."""
    spm = pytest.importorskip("sentencepiece")
    processor = spm.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(number) for number in range(3, processor.get_piece_size())]


def marian_folder(folder: Path, separate: bool = False) -> Path:
    """Writes the text files; some pieces are in no table, and one token is the code of a language.

    Two tables are of one length, as transformers looks for the target's padding under its number in the source's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    models = {"source.spm": pieces_model(ENGLISH), "target.spm": pieces_model(FRENCH)}
    for name, model in models.items():
        (folder / name).write_bytes(model)
    source, target = (pieces_of(model) for model in models.values())
    tables = {"vocab.json": source, "target_vocab.json": target} if separate else {"vocab.json": [*source, *target]}
    most = min(len({*pieces}) for pieces in tables.values()) - 9
    for name, pieces in tables.items():
        kept = sorted({*pieces})
        random.Random(1).shuffle(kept)
        tokens = ["</s>", "<unk>", *kept[:40], CODE, *kept[40:most], "<pad>"]
        (folder / name).write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    settings = {"source_lang": "eng", "target_lang": "fra", "separate_vocabs": separate}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def sentences(count: int, seed: int = 0) -> list[str]:
    """Returns sentences of known words, of unknown ones and of odd letters, with spaces of any number between."""
    dice, words = random.Random(seed), " ".join([*ENGLISH, *FRENCH]).split(" ")
    found = []
    for _ in range(count):
        odd = ["".join(dice.choices(LETTERS, k=dice.randint(1, 6))) for _ in range(dice.randint(0, 3))]
        chosen = [*dice.choices(words, k=dice.randint(0, 9)), *odd]
        dice.shuffle(chosen)
        found.append(dice.choice(["", " ", CODE, f"{CODE} "]) + dice.choice([" ", "  "]).join(chosen))
    return found
