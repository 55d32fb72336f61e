"""The rules of the house that a syntax tree can show: each names what breaks it in a file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch

MODULE_LINES = 500
FUNCTION_LINES = 60
PARAMETERS = 8

BANNED_WORDS = {"utils", "util", "common", "misc", "helper", "helpers", "manager", "handler"}
BANNED_WORDS |= {"new", "v2", "legacy"}

UNSAFE_MODULES = {"pickle", "marshal", "shelve", "joblib", "dill", "cloudpickle"}
UNSAFE_CALLS = {"eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "os.system"}

CLOCK = "events/clock.py"
CLOCK_CALLS = {
    "time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.ctime", "time.strftime",
    "datetime.now", "datetime.utcnow", "datetime.today", "date.today",
}  # fmt: skip

ENGINES = {
    "onnxruntime": ("inference/onnxruntime.py", "compression/onnxruntime.py"),
    "openvino": ("inference/openvino.py",),
    "sqlite3": ("events/log*.py", "bundle/store.py"),
    "redis": ("events/redis.py",),
    "faiss": ("retrieval/faiss.py",),
    "ibis": ("data/spark.py",),
    "pyspark": ("data/spark.py",),
    "ray": ("training/ray.py",),
}
"""Third-party engine: the files that bear its name or implement its protocol."""


def unsafe(tree: ast.Module) -> Iterator[str]:
    """Yield each way in which a file could run code that it only meant to read.

    >>> list(unsafe(ast.parse("import pickle")))
    ['line 1: pickle']
    """
    for line, name in _imports(tree):
        if UNSAFE_MODULES & {name.split(".")[0]} or name in UNSAFE_CALLS:
            yield f"line {line}: {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in UNSAFE_CALLS:
            yield f"line {node.lineno}: {ast.unparse(node.func)}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield f"line {node.value.lineno}: allow_pickle"


def wall_clock(tree: ast.Module, path: str) -> Iterator[str]:
    """Yield each look at the wall clock outside the one file that may.

    >>> list(wall_clock(ast.parse("import time as t; import datetime; t.time()"), "a.py"))
    ['line 1: time.time']
    """
    if path == CLOCK:
        return
    names = _bindings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            head, dot, tail = ast.unparse(node).partition(".")
            called = names.get(head, head) + dot + tail
            if called in CLOCK_CALLS or called.removeprefix("datetime.") in CLOCK_CALLS:
                yield f"line {node.lineno}: {called}"


def engines(tree: ast.Module, path: str) -> Iterator[str]:
    """Yield each engine that is imported outside the files of its name.

    >>> list(engines(ast.parse("import sqlite3"), "serving/app.py"))
    ['line 1: sqlite3']
    """
    for line, name in _imports(tree):
        engine = name.split(".")[0]
        if engine in ENGINES and not any(fnmatch(path, allowed) for allowed in ENGINES[engine]):
            yield f"line {line}: {engine}"


def too_large(tree: ast.Module, text: str) -> Iterator[str]:
    """Yield the file if it is too long, and each function too long or with too many parameters.

    A docstring does not make a function longer.

    >>> list(too_large(ast.parse("def f(a,b,c,d,e,f,g,h,i): pass"), ""))
    ['f has 9 parameters']
    """
    if text.count("\n") > MODULE_LINES:
        yield f"{text.count(chr(10))} lines"
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        lines = _span(node) - (_span(node.body[0]) if ast.get_docstring(node) else 0)
        if lines > FUNCTION_LINES:
            yield f"{node.name} has {lines} lines"
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = sum(argument.arg not in {"self", "cls"} for argument in given)
        if count > PARAMETERS:
            yield f"{node.name} has {count} parameters"


def badly_named(tree: ast.Module, path: str) -> Iterator[str]:
    """Yield each banned word in the name of the file, of a class or of a function.

    >>> list(badly_named(ast.parse("class EventManager: pass"), "events/utils.py"))
    ['events/utils.py', 'EventManager']
    """
    named = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    names = [path, *(node.name for node in ast.walk(tree) if isinstance(node, named))]
    for name in names:
        words = re.findall(r"[A-Z]?[a-z0-9]+", name.removesuffix(".py"))
        if BANNED_WORDS & {word.lower() for word in words}:
            yield name


def without_example(tree: ast.Module) -> Iterator[str]:
    """Yield each public function of a file whose docstring shows no example.

    >>> list(without_example(ast.parse("def f(): pass")))
    ['f']
    """
    for node in tree.body:
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (
            function
            and not node.name.startswith("_")
            and ">>>" not in (ast.get_docstring(node) or "")
        ):
            yield node.name


def _span(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of everything that is imported, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _bindings(tree: ast.Module) -> dict[str, str]:
    """Return what each imported name stands for: `import time as t` gives t: time."""
    bound = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                bound[alias.asname or alias.name] = prefix + alias.name
    return bound
