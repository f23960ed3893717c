"""What somebody hostile would send: pickles that touch a file when opened, and folders around them."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from dougong.checkpoint.weights import save_model
from dougong.core import log
from dougong.core.config import validate
from dougong.data.vocabulary import BytesConfig
from dougong.models.gpt import SMALL, GPTConfig
from dougong.run import train
from tests.tiny import tiny_recipe

CANARY = "CANARY"


class Touch:
    """Unpickled where nothing stands in the way, it makes the file `CANARY`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {CANARY}",)


class Call:
    """Unpickled, it calls this function with these arguments."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.function, self.arguments = function, arguments

    def __call__(self) -> None:
        """Makes the result of a call something that can be called."""

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def sang(folder: Path) -> bool:
    """Tells whether the canary sang, and makes it silent again."""
    found = (folder / CANARY).exists()
    (folder / CANARY).unlink(missing_ok=True)
    return found


def saved(value: Any, zipped: bool = True) -> bytes:
    """Returns what torch.save makes of a value."""
    content = io.BytesIO()
    torch.save(value, content, _use_new_zipfile_serialization=zipped)
    return content.getvalue()


def weights() -> dict[str, Tensor]:
    """A small state dict, as good as any."""
    return {"embed.weight": torch.ones(4, 3), "head.bias": torch.zeros(3)}


def with_second_pickle() -> bytes:
    """A good archive of torch's, to which another data.pkl was added, which some readers would take."""
    content = io.BytesIO(saved(weights()))
    with zipfile.ZipFile(content, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/more/../data.pkl", pickle.dumps(Touch(), protocol=2))
    return content.getvalue()


def by_getattr() -> Call:
    """Names nothing that is forbidden but `getattr`, and reaches the system from a function of torch's."""
    names = Call(getattr, torch._utils._rebuild_tensor_v2, "__globals__")
    modules = Call(getattr, Call(Call(getattr, names, "get"), "sys"), "modules")
    system = Call(getattr, Call(Call(getattr, modules, "get"), "os"), "system")
    return Call(system, f"touch {CANARY}")


def legacy_tar() -> bytes:
    """An archive as torch wrote it before 2017: a tar of pickles."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("storages", "tensors", "pickle"):
            raw = pickle.dumps(Touch(), protocol=2)
            entry = tarfile.TarInfo(name)
            entry.size = len(raw)
            archive.addfile(entry, io.BytesIO(raw))
    return content.getvalue()


def arrays() -> bytes:
    """An .npz with an array of objects."""
    content = io.BytesIO()
    np.savez(content, weight=np.array([Touch()], dtype=object), allow_pickle=True)
    return content.getvalue()


def array() -> bytes:
    """An .npy of objects."""
    content = io.BytesIO()
    np.save(content, np.array([Touch()], dtype=object), allow_pickle=True)
    return content.getvalue()


def sound_model(folder: Path) -> Path:
    """Writes a model that opens, with its tokenizer, and no seal: as it comes from elsewhere."""
    model: Any = validate(GPTConfig, SMALL["gpt2"] | {"vocab_size": 257}).build()
    model.init_weights(0)
    save_model(model, folder)
    BytesConfig().build(list, list).save(folder)
    (folder / "manifest.json").unlink(missing_ok=True)
    return folder


def sound_run(folder: Path) -> Path:
    """Trains a tiny model; returns the folder of the run, which has checkpoints at steps 4 and 8."""
    changes = {"evaluate": {"every": 0}, "samples": {"every": 0}}
    with log.listening(lambda text: None), mock.patch("dougong.train.page._svg", return_value=""):
        train(tiny_recipe(folder, train=changes), run=folder / "run")
    return folder / "run"


def copied(source: Path, target: Path) -> Path:
    """Returns a copy of a folder, to be spoiled."""
    shutil.copytree(source, target)
    return target


def resealed(checkpoint: Path) -> Path:
    """Seals a checkpoint anew, as one who changes it would, and returns it."""
    from dougong.checkpoint import seal

    (checkpoint / "manifest.json").unlink()
    seal.seal(checkpoint)
    return checkpoint


def edited(path: Path, **changes: Any) -> None:
    """Changes values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
