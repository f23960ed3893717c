"""`dougong import`: parses, calls, prints."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from dougong.cli.options import Json


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A file of torch.save (.pt, .pth, .bin, .ckpt), or a Hugging Face folder with pytorch_model.bin.",
        ),
    ],
    to: Annotated[str, typer.Option("--to", metavar="FOLDER", help="The new folder, with the weights as safetensors.")],
    key: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--key", help="What the weights lie under, such as state_dict; found where there is one such."),
    ] = None,
    json: Json = False,
) -> None:
    """Import pickled weights: convert them to safetensors, without letting the pickle run anything.

    It is opened as weights alone, in a process without network, other files or much memory.
    """
    from dougong.cli.output import show_json
    from dougong.run import import_weights

    done = import_weights(source, to, key=key)
    if json:
        show_json(done.summary())
        return
    types = ", ".join(f"{count:,} {kind}" for kind, count in sorted(done.types.items()))
    under = f", from the key {done.key}" if done.key else ""
    print(f"{done.folder}: {done.tensors:,} tensors ({types}), {done.bytes:,} bytes{under}")
    if done.left_out:
        names = ", ".join(f"{name} ({kind})" for name, kind in done.left_out[:20])
        print(f"Left out, {len(done.left_out):,}: {names}{', ...' if len(done.left_out) > 20 else ''}")
    print(f"Written: {', '.join(done.files)}")
    if done.opens:
        print("The model opens in dougong: all its tensors are there, and no other.")
