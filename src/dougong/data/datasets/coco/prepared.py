"""Files in COCO's form made ready: where each picture lies, and what is said of it.

Knows the folders; the JSON is read in `coco.py`, and what becomes of pictures and boxes is in `annotated.py`.
"""

from __future__ import annotations

from pathlib import Path

from dougong.core import files
from dougong.core.errors import FileError
from dougong.data.annotated import AnnotatedData, FoundObjects, made_ready
from dougong.data.coco import read_coco
from dougong.data.datasets.coco import CocoConfig
from dougong.data.source import Tally


def prepared(config: CocoConfig, cache: Path | None) -> AnnotatedData:
    """Reads the annotations, looks at each picture, and returns them ready to train on."""
    train, validation = (
        read_coco(path.expanduser()) for path in (config.annotations_path, config.validation_annotations_path)
    )
    if not train.labels:
        raise FileError(f"{config.annotations_path} must have categories, but has none. Name another file.")
    source = f"{config.annotations_path}, {config.validation_annotations_path}"
    found = FoundObjects(train.labels, source, len(train.annotations))
    folders = (config.images_path, config.validation_images_path or config.images_path)
    for folder, part in zip(folders, (train, validation), strict=True):
        for annotation in part.annotations:
            found.add(files.inside(folder.expanduser(), annotation.picture), annotation)
    return made_ready(config, found, cache, Tally(config.max_bad_samples))
