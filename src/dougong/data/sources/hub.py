"""Documents from a data set of the Hugging Face hub, or from a folder laid out like one, through `datasets`.

Knows that library's streaming; nothing of a data set is executed (it runs no scripts).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt

from dougong.core import files
from dougong.core.config import Config, Fault
from dougong.core.errors import DougongError, FileError, MissingExtra, ResourceError, UsageError
from dougong.data import reading
from dougong.data.columns import Record, check_columns, chosen
from dougong.data.document import Document
from dougong.data.raw import Bad
from dougong.data.source import SourceConfig, Tally


class HubConfig(SourceConfig):
    """A data set of the hub, read as a stream; or a local folder of Parquet, JSONL or CSV files."""

    name: Literal["hub"] = "hub"
    """Which source."""
    dataset: str
    """Name on the hub (`owner/name`), or a local folder."""
    config: str | None = None
    """Which of the data set's configurations; absent: its only one."""
    split: str = "train"
    """Which of its splits."""
    field: str = "text"
    """The column that holds the text."""
    revision: str | None = None
    """Commit, tag or branch on the hub; absent: the newest. A commit makes the run repeatable."""
    limit: PositiveInt | None = None
    """Read at most so many records; absent: all."""
    max_bad_samples: NonNegativeInt = 0
    """Records without text to leave aside before reading stops."""

    def build(self) -> Hub:
        """Makes the source; reads nothing yet.

        Raises:
            MissingExtra: The library `datasets` is absent.
        """
        try:
            import datasets  # noqa: F401
        except ImportError as error:
            raise MissingExtra("reading data sets of the hub", "hub") from error
        return Hub(self)


PART = HubConfig


class HubTableConfig(Config):
    """A data set of the hub whose columns are read by name; or a local folder of Parquet, JSONL or CSV files."""

    dataset: str
    """Name on the hub (`owner/name`), or a local folder."""
    config: str | None = None
    """Which of the data set's configurations; absent: its only one."""
    split: str = "train"
    """Which of its splits to train on."""
    validation_split: str | None = None
    """Which of its splits to validate on; absent: some records are kept apart."""
    revision: str | None = None
    """Commit, tag or branch on the hub; absent: the newest. A commit makes the run repeatable."""

    def faults(self) -> Iterator[Fault]:
        """Yields the fault of splits that are one."""
        if self.validation_split == self.split:
            yield Fault("validation_split", f"must be another split than {self.split!r}, but is the same.")

    def source(self, apart: bool) -> Hub:
        """Makes the source of what is trained on, or of what is validated on (`apart`); reads nothing yet.

        Raises:
            MissingExtra: The library `datasets` is absent.
        """
        split = self.validation_split if apart and self.validation_split is not None else self.split
        return HubConfig(dataset=self.dataset, config=self.config, split=split, revision=self.revision).build()


class Hub:
    """The records of a data set, in its own order."""

    def __init__(self, config: HubConfig):
        self.config = config
        self.source = config.dataset

    @functools.cached_property
    def licence(self) -> str:
        """The licence that the data set's card states, or "unknown"."""
        from huggingface_hub import DatasetCard

        card = self.config.dataset if self._folder is None else self._folder / "README.md"
        try:
            stated = DatasetCard.load(card).data.license
        except Exception:  # no card, a broken one, or no network: then none is known
            return "unknown"
        return ", ".join(stated) if isinstance(stated, list) else stated or "unknown"

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the commit (on the hub) or of every byte (of a folder), and of what is read of it."""
        config = self.config
        chosen = (config.config, config.split, config.field, config.limit, config.max_bad_samples)
        return hashlib.sha256(f"{self._content()} {chosen!r}".encode()).hexdigest()

    def documents(self, tally: Tally) -> Iterator[Document]:
        """Yields the documents; see `dougong.data.source.Source`."""
        tally.allowed = self.config.max_bad_samples
        yield from reading.records(self._texts(), self.config.dataset, "record", tally)
        if tally.used == 0:
            raise FileError(f"{self.source} must hold text, but no document is left ({tally.summary()}).")

    def _texts(self) -> Iterator[tuple[int, Any]]:
        field = self.config.field
        with translated(self.config):
            for number, record in enumerate(self._stream, start=1):
                if self.config.limit is not None and number > self.config.limit:
                    return
                yield number, reading.text_of(record, field)

    def rows(self, wanted: Sequence[str], tally: Tally) -> Iterator[Record]:
        """Yields the columns that are wanted of each record, counted as `columns.records` counts; classes by name.

        Raises:
            FileError: A column is not there.
        """
        name = f"{self.config.dataset}, {self.config.split}"
        with translated(self.config):
            features = self._stream.features or {}
            if features:
                check_columns(name, wanted, list(features))
            for number, record in enumerate(self._stream, start=1):
                where, values = f"{name}, record {number}", chosen(record, wanted)
                if isinstance(values, Bad):
                    tally.quarantine(where, str(values))
                    continue
                tally.used += 1
                yield Record(where, {field: _named(value, features.get(field)) for field, value in values.items()})

    @functools.cached_property
    def _stream(self) -> Any:
        import datasets

        config = self.config
        with translated(config):
            return datasets.load_dataset(
                config.dataset, config.config, split=config.split, revision=self.commit, streaming=True
            )

    @property
    def _folder(self) -> Path | None:
        folder = Path(self.config.dataset).expanduser()
        return folder if folder.is_dir() else None

    @functools.cached_property
    def commit(self) -> str | None:
        """The commit that is read: pinned here, so that a newer one cannot slip in between two passes."""
        revision = self.config.revision
        if self._folder is not None or (revision is not None and re.fullmatch("[0-9a-f]{40}", revision)):
            return revision
        from huggingface_hub import HfApi

        with translated(self.config):
            return HfApi().dataset_info(self.config.dataset, revision=revision).sha

    def _content(self) -> str:
        """Returns the commit, or a hash of every byte of a folder."""
        folder = self._folder
        if folder is None:
            return f"{self.config.dataset} {self.commit}"
        whole = hashlib.sha256()
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            whole.update(f"{path.relative_to(folder).as_posix()} {files.sha256(path)}\n".encode())
        return whole.hexdigest()


def _named(value: Any, feature: Any) -> Any:
    """Returns the name of a class, or those of a list of classes, where the data set has numbers for them."""
    names = getattr(feature, "names", None)
    if names and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    inner = getattr(feature, "feature", None)
    return [_named(each, inner) for each in value] if isinstance(value, list) and inner is not None else value


@contextlib.contextmanager
def translated(config: HubConfig) -> Iterator[None]:
    """Turns what the libraries raise into dougong's errors."""
    try:
        yield
    except DougongError:
        raise
    except Exception as error:  # whatever the library, its readers or the network raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        text = f"the data set {config.dataset!r} must be readable, but is not: {reason}."
        if isinstance(error, FileNotFoundError):
            raise UsageError(f"{text} Check its name.", name="E-PATH") from error
        if isinstance(error, OSError):
            raise ResourceError(f"{text} Check the network, or use files.", name="E-NETWORK") from error
        if isinstance(error, ValueError) and not type(error).__module__.startswith("pyarrow"):
            raise UsageError(text) from error  # an unknown configuration or split, an impossible name
        raise FileError(text) from error
