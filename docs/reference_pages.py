"""Makes one page of reference per module, from the docstrings, while the documentation is built.

A hook of mkdocs: it knows the folder of the sources and nothing of what is in them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SOURCE = Path(__file__).parents[1] / "src"


def module_names() -> list[str]:
    """Returns every public module, with dots, sorted; a package stands before its modules."""
    files = SOURCE.rglob("*.py")
    names = (".".join(file.relative_to(SOURCE).with_suffix("").parts) for file in files)
    return sorted(name.removesuffix(".__init__") for name in names if not name.endswith("__main__"))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the reference to the navigation: one section per package."""
    sections: dict[str, list[dict[str, str]]] = {}
    for name in module_names():
        parts = name.split(".")
        section = parts[1] if len(parts) > 1 else "dougong"
        sections.setdefault(section, []).append({".".join(parts[1:]) or "dougong": f"reference/{name}.md"})
    reference: list[dict[str, Any]] = [{name: pages} for name, pages in sections.items()]
    assert config.nav is not None
    config.nav.append({"Reference": reference})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages themselves."""
    for name in module_names():
        files.append(File.generated(config, f"reference/{name}.md", content=f"# {name}\n\n::: {name}\n"))
    return files
