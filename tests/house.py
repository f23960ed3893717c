"""The rules of the house, each a function from a source tree to the complaints about it.

Reads the source as text (`ast`) and never runs it, so a rule can be tried on a small made-up tree. Knows no pytest.
"""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

FLOORS = {
    "core": 1,
    **dict.fromkeys(("nn", "data", "distributed"), 2),
    **dict.fromkeys(("models", "tasks", "parallel", "checkpoint"), 3),
    **dict.fromkeys(("train", "infer"), 4),
    "recipe": 5,
    **dict.fromkeys(("plan", "check", "serve", "explain", "audit", "export"), 6),
    **dict.fromkeys(("run", "recipes"), 7),
    "cli": 8,
    **dict.fromkeys(("__init__", "__main__"), 9),
}
FORBIDDEN_NAMES = {"utils", "util", "common", "misc", "helpers", "helper", "base", "v2"}
EXECUTING_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
EXECUTING_CALLS = {"eval", "exec", "compile", "__import__"}
EXECUTING_ATTRIBUTES = {("torch", "load"), ("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load")}
UNPICKLER = "checkpoint/unpickle.py"  # the one file that may call torch.load, and only for weights alone
READER = "core/files.py"  # the one file that opens files
CONFINER = (
    "core/confine.py"  # a script of its own, which imports nothing of ours and tells the kernel what may be opened
)
INSIDE = "run/within.py"  # a script of its own, which runs programs, and runs behind walls alone
READING_ATTRIBUTES = {
    *(("np", name) for name in ("load", "fromfile", "memmap", "loadtxt", "genfromtxt")),
    *(("numpy", name) for name in ("load", "fromfile", "memmap", "loadtxt", "genfromtxt")),
    *(("torch", name) for name in ("load", "from_file")),
    *(("tempfile", name) for name in ("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile")),
    *((library, "load") for library in ("yaml", "tomllib", "toml")),
    ("gzip", "GzipFile"),
    ("zipfile", "ZipFile"),
    ("tarfile", "TarFile"),
    ("importlib", "resources"),
}
READING_NAMES = {"safe_open", "load_file", "open_code", "from_pretrained", "hf_hub_download"}
READING_METHODS = {"read_bytes", "read_text", "write_bytes", "write_text"}
OPEN_OTHER_THINGS = {"webbrowser", "checkpointer", "typer"}  # whose `open` opens no file here
DYNAMIC_IMPORTERS = {"core/config.py", "__init__.py"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(package: Path) -> dict[str, ast.Module]:
    """Returns the parsed files of a package by their path in it, sorted."""
    files = sorted(package.rglob("*.py"))
    return {file.relative_to(package).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def module_name(path: str) -> str:
    """Returns `nn.attention` for `nn/attention.py`, and `nn` for `nn/__init__.py`; the root is the empty name."""
    return path.removesuffix(".py").removesuffix("__init__").rstrip("/").replace("/", ".")


def imports(path: str, tree: ast.Module, package: str, modules: set[str]) -> Iterator[tuple[int, str]]:
    """Yields line and module (its name inside the package) of every import of the own package, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == package:
                    yield node.lineno, alias.name.removeprefix(package).lstrip(".")
        elif isinstance(node, ast.ImportFrom):
            start = _start(path, node, package)
            for alias in node.names if start is not None else ():
                inner = f"{start}.{alias.name}".lstrip(".")
                yield node.lineno, inner if inner in modules else start or ""


def _start(path: str, node: ast.ImportFrom, package: str) -> str | None:
    """Returns the module that a `from` names, inside the package; None for a foreign one."""
    target = node.module or ""
    if node.level:
        parts = path.split("/")[:-1]
        return ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [target])])
    return target.removeprefix(package).lstrip(".") if target.split(".")[0] == package else None


def floor_complaints(package: Path) -> list[str]:
    """A package imports strictly lower floors only, never a neighbour on its own floor."""
    trees = sources(package)
    modules = {module_name(path) for path in trees}
    found = []
    for path, tree in trees.items():
        own = path.split("/")[0].removesuffix(".py")
        if own not in FLOORS:
            found.append(f"{path}: {own} has no floor")
            continue
        for line, target in imports(path, tree, package.name, modules):
            other = target.split(".")[0] or "__init__"
            if other != own and FLOORS.get(other, 9) >= FLOORS[own]:
                found.append(
                    f"{path}:{line}: {own} (floor {FLOORS[own]}) imports {other} ({FLOORS.get(other, 'none')})"
                )
    return found


def cycle_complaints(package: Path) -> list[str]:
    """No module imports itself through others, not even inside a function."""
    trees = sources(package)
    modules = {module_name(path) for path in trees}
    graph = {
        module_name(path): {target for _, target in imports(path, tree, package.name, modules)} - {module_name(path)}
        for path, tree in trees.items()
    }
    found, done = [], set[str]()

    def visit(module: str, trail: list[str]) -> None:
        if module in trail:
            found.append(" -> ".join([*trail[trail.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, [*trail, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def dynamic_import_complaints(package: Path) -> list[str]:
    """Only `find_part` (and the lazy front door) imports by a computed name, or the floors would not hold."""
    return [
        f"{path}:{node.lineno}: imports by a computed name"
        for path, tree in sources(package).items()
        if path not in DYNAMIC_IMPORTERS
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _called(node).endswith("import_module") and not _imports_own(node)
    ]


def _imports_own(node: ast.Call) -> bool:
    """A package may import its own files by name, f"{__name__}.{name}": it stays on its floor."""
    return bool(node.args) and ast.unparse(node.args[0]).startswith(("f'{__name__}.", 'f"{__name__}.'))


def size_complaints(package: Path, lines: int = 500, function_lines: int = 80, parameters: int = 7) -> list[str]:
    """Files and functions stay short, and a function that needs many parameters takes a config instead."""
    found = []
    for path, tree in sources(package).items():
        count = len((package / path).read_text(encoding="utf-8").splitlines())
        if count > lines:
            found.append(f"{path} has {count} lines ({lines} at most)")
        for node in functions(tree):
            if (length := _length(node)) > function_lines:
                found.append(f"{path}:{node.lineno}: {node.name} has {length} lines ({function_lines} at most)")
            if (taken := len(_parameters(node))) > parameters and not _is_verb(path):
                found.append(f"{path}:{node.lineno}: {node.name} takes {taken} parameters ({parameters} at most)")
    return found


def median_function_length(package: Path) -> float:
    """Returns the median number of lines of all functions."""
    return statistics.median([_length(node) for tree in sources(package).values() for node in functions(tree)])


def functions(tree: ast.AST) -> Iterator[Function]:
    """Yields every function and method."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def _length(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _parameters(node: Function) -> list[ast.arg]:
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [a for a in (*named, arguments.vararg, arguments.kwarg) if a is not None and a.arg not in ("self", "cls")]


def _is_verb(path: str) -> bool:
    """A verb of the command line is a config: each parameter is an option with its help, which a frozen list guards."""
    return path.startswith("cli/")


def name_complaints(package: Path) -> list[str]:
    """No file or folder has a name that says nothing."""
    return [
        f"{path}: {part} says nothing about what is inside"
        for path in sources(package)
        for part in path.removesuffix(".py").split("/")
        if part in FORBIDDEN_NAMES
    ]


def executing_complaints(package: Path) -> list[str]:
    """Law 6: nothing that is loaded can execute."""
    return [
        f"{path}:{node.lineno}: {reason} can execute what it loads"
        for path, tree in sources(package).items()
        for excused in [_weights_alone(tree) if path == UNPICKLER else set[ast.AST]()]
        for node in ast.walk(tree)
        for reason in _executes(node)
        if isinstance(node, ast.stmt | ast.expr) and node not in excused
        if path != INSIDE or reason not in ("compile", "exec")
    ]


def _weights_alone(tree: ast.Module) -> set[ast.AST]:
    """Returns the `torch.load` of each call of it that has, literally, `weights_only=True` and nothing to undo it."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load")
    return {call.func for call in calls if _says_weights_only(call)}


def _says_weights_only(call: ast.Call) -> bool:
    words = {word.arg: word.value for word in call.keywords}
    value = words.get("weights_only")
    plain = words.keys() <= {"map_location", "weights_only", "mmap"} and len(call.args) == 1
    return plain and isinstance(value, ast.Constant) and value.value is True


def reading_complaints(package: Path) -> list[str]:
    """Only `core/files.py` opens files: regular ones alone, in bounded memory, as data."""
    return [
        f"{path}:{node.lineno}: {reason}; let core/files.py do it"
        for path, tree in sources(package).items()
        if path not in (READER, CONFINER)
        for excused in [_weights_alone(tree) | _of_open_files(tree) if path == UNPICKLER else set[ast.AST]()]
        for node in ast.walk(tree)
        for reason in _reads(node)
        if isinstance(node, ast.stmt | ast.expr) and node not in excused
    ]


def _of_open_files(tree: ast.Module) -> set[ast.AST]:
    """Returns what the unpickler does with a file that is open already, and is an archive."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            words = ast.unparse(node.func)
            inner = ast.unparse(node.args[0]) if node.args else ""
            if (words, inner) in {("zipfile.ZipFile", "source"), ("archive.open", "entry")}:
                found |= {node, node.func}
    return found


def _reads(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and not node.level:
        names = {alias.name for alias in node.names}
        root = node.module or ""
        yield from (f"imports {name}" for name in sorted(names & READING_NAMES))
        yield from (f"imports {root}.{name}" for name in sorted(names) if (root, name) in READING_ATTRIBUTES)
        if root in ("importlib.resources", "io", "os", "codecs", "gzip") and "open" in names:
            yield f"imports {root}.open"
    elif isinstance(node, ast.Attribute):
        owner = ast.unparse(node.value)
        if (owner, node.attr) in READING_ATTRIBUTES or node.attr in READING_NAMES:
            yield f"uses {owner}.{node.attr}"
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id == "open" or node.func.id in READING_NAMES:
            yield f"calls {node.func.id}"
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        owner, method = ast.unparse(node.func.value), node.func.attr
        if method in READING_METHODS and owner.split(".")[-1] != "files":
            yield f"calls {owner}.{method}"
        if method == "open" and owner.split(".")[-1] not in OPEN_OTHER_THINGS and not _to_nothing(node):
            yield f"calls {owner}.open"


def _to_nothing(call: ast.Call) -> bool:
    return bool(call.args) and ast.unparse(call.args[0]) == "os.devnull"


def _executes(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] in EXECUTING_MODULES)
    elif isinstance(node, ast.ImportFrom):
        root = (node.module or "").split(".")[0]
        if root in EXECUTING_MODULES and not node.level:
            yield root
        yield from (f"{root}.{a.name}" for a in node.names if (root, a.name) in EXECUTING_ATTRIBUTES)
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if (node.value.id, node.attr) in EXECUTING_ATTRIBUTES:
            yield f"{node.value.id}.{node.attr}"
    elif isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in EXECUTING_CALLS:
            yield node.func.id
        for word in node.keywords:
            harmless = isinstance(word.value, ast.Constant) and not word.value.value
            if word.arg in ("allow_pickle", "trust_remote_code") and not harmless:
                yield word.arg
            if word.arg == "typ" and isinstance(word.value, ast.Constant) and word.value.value == "unsafe":
                yield "YAML(typ='unsafe')"


def _called(node: ast.Call) -> str:
    """Returns the last word of what is called: `load` for `torch.load(...)`."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def stub_complaints(package: Path) -> list[str]:
    """Nothing is left to be written later."""
    words = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError|NotImplemented)\b")
    return [
        f"{path}:{number}: {line.strip()}"
        for path in sources(package)
        for number, line in enumerate((package / path).read_text(encoding="utf-8").splitlines(), 1)
        if words.search(line)
    ]


def forward_complaints(package: Path) -> list[str]:
    """Every `forward` states the shapes it takes and returns, and has no switch between mathematics and tricks."""
    found = []
    for path, tree in sources(package).items():
        for node in functions(tree):
            if node.name != "forward" or _is_autograd(tree, node):
                continue
            annotations = {a.arg: a.annotation for a in _parameters(node)} | {"its result": node.returns}
            for name, annotation in annotations.items():
                if annotation is None or ast.unparse(annotation).removesuffix(" | None") in ("Tensor", "torch.Tensor"):
                    found.append(f"{path}:{node.lineno}: forward does not state the shape of {name}")
                if name.startswith("use_"):
                    found.append(f"{path}:{node.lineno}: forward has a switch, {name}")
    return found


def _is_autograd(tree: ast.Module, node: Function) -> bool:
    """The `forward` of an autograd function is called with untyped contexts, and stands behind a typed function."""
    classes = (c for c in ast.walk(tree) if isinstance(c, ast.ClassDef) and node in c.body)
    return any(ast.unparse(parent).endswith("Function") for c in classes for parent in c.bases)


def docstring_complaints(package: Path) -> list[str]:
    """Every module says what it knows."""
    return [f"{path} has no docstring" for path, tree in sources(package).items() if not ast.get_docstring(tree)]


def machine_path_complaints(root: Path, files: list[Path]) -> list[str]:
    """No file tells on which machine it was written."""
    places = re.compile(r"(?<![\w./-])/(?:work|farm|root|home|Users|tmp/venv)/")
    return [
        f"{file.relative_to(root)}:{number}: {line.strip()[:80]}"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if places.search(line)
    ]


def fenced_blocks(text: str, language: str) -> list[str]:
    """Returns the contents of a Markdown text's fenced blocks in one language."""
    pattern = rf"^(?P<indent> *)```{language}\b[^\n]*\n(?P<body>.*?)^(?P=indent)```"
    return [match["body"] for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL)]


def shell_commands(text: str) -> list[str]:
    """Returns the commands in a Markdown text's `sh` blocks: continued lines joined, comments and prompts removed."""
    lines = "\n".join(fenced_blocks(text, "sh")).replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ") for line in lines if line.strip() and not line.strip().startswith("#")]


def quoted_code_complaints(root: Path, text: str) -> list[str]:
    """Every line of a block titled with a file stands in that file, word for word."""
    found = []
    pattern = r'^```python title="(?P<file>[^"]+)"\n(?P<body>.*?)^```'
    for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
        file = root / match["file"]
        if not file.is_file():
            found.append(f"{match['file']} does not exist")
            continue
        present = {line.strip() for line in file.read_text(encoding="utf-8").splitlines()}
        wanted = [line.strip() for line in match["body"].splitlines() if line.strip() not in ("", "...")]
        found += [f"{match['file']} has no line {line!r}" for line in wanted if line not in present]
    return found
