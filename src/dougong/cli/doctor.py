"""`dougong doctor`: parses, calls, prints."""

from __future__ import annotations

from typing import Any

from dougong.cli.options import Json


def doctor(json: Json = False) -> None:
    """Tell versions, devices with their measured speed, and what each absent extra would add."""
    from dougong.cli.output import show_json, show_table
    from dougong.run.doctor import doctor as examine

    found = examine()
    if json:
        show_json(found)
        return
    found["devices"] = {name: _speeds(device) for name, device in found["devices"].items()}
    found["extras"] = {
        name: f"{extra['adds']}: {'installed' if extra['installed'] else extra['install']}"
        for name, extra in found["extras"].items()
    }
    show_table(found)


def _speeds(device: dict[str, Any]) -> dict[str, str]:
    """Returns the measured speeds with their units."""
    shown = {}
    for name, value in device.items():
        if name.endswith("flops_per_second"):
            shown[f"{name.split('_')[0]} matrix products"] = "none" if value is None else f"{value / 1e9:,.1f} GFLOP/s"
        elif name == "bytes_per_second":
            shown["memory bandwidth"] = f"{value / 1e9:,.1f} GB/s"
        else:
            shown[name.removesuffix("_bytes")] = f"{value / 1e9:,.1f} GB" if name.endswith("bytes") else str(value)
    return shown
