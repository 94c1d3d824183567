from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from source import SOURCE, label, source_files, tree

WRITERS = {
    "write_text",
    "write_bytes",
    "save",
    "savez",
    "savez_compressed",
    "save_file",
    "save_model",
    "savefig",
    "dump",
}
HOME = SOURCE / "core" / "store.py"

EXCEPTIONS = {
    "src/holdfast/deploy/target/record.py: np.savez_compressed": "runs on the target, where holdfast is not",
    "src/holdfast/report/frames.py: Image.fromarray(image).save": "into memory",
    "src/holdfast/data/codec.py: image.save": "into memory",
    "src/holdfast/report/svg.py: figure.savefig": "into memory",
}
"""Calls that look like writing a file and are not, or cannot go through the store, each with the reason."""


def test_only_the_store_writes_files() -> None:
    found = {f"{label(path)}: {call}" for path in source_files() if path != HOME for call in unprotected(tree(path))}
    assert found == set(EXCEPTIONS)


def unprotected(module: ast.Module) -> Iterator[str]:
    """Calls that write a file, apart from those in a ``with atomic_path(...)`` block and those of our own modules."""
    ours = {
        alias.asname or alias.name
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("holdfast")
        for alias in node.names
    }
    return (ast.unparse(call.func) for call in calls(module) if writes(call) and receiver(call) not in ours)


def calls(node: ast.AST) -> Iterator[ast.Call]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.With) and any("atomic_path(" in ast.unparse(item) for item in child.items):
            continue
        if isinstance(child, ast.Call):
            yield child
        yield from calls(child)


def receiver(call: ast.Call) -> str:
    return ast.unparse(call.func).split(".")[0]


def writes(call: ast.Call) -> bool:
    if isinstance(call.func, ast.Attribute):
        if call.func.attr == "open":
            return opens_for_writing(call)
        return call.func.attr in WRITERS and bool(call.args)
    return isinstance(call.func, ast.Name) and (
        call.func.id in WRITERS or (call.func.id == "open" and opens_for_writing(call))
    )


def opens_for_writing(call: ast.Call) -> bool:
    """``open(path, mode)`` and ``path.open(mode)``: the mode is the last positional argument that is a short text."""
    given = [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
    modes = [mode.value for mode in given if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
    return any(set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("open(p, 'w')", ["open"]),
        ("open(p)", []),
        ("p.open('rb')", []),
        ("p.open(mode='ab')", ["p.open"]),
        ("p.write_text(t)", ["p.write_text"]),
        ("torch.save(s, p)", ["torch.save"]),
        ("with atomic_path(p) as q:\n    torch.save(s, q)", []),
        ("with atomic_path(p) as q, q.open('wb') as f:\n    f.write(b'')", []),
        ("from holdfast.weights import files\nfiles.save(p, s)", []),
        ("def f():\n    np.savez_compressed(p, a=1)", ["np.savez_compressed"]),
    ],
)
def test_the_check_sees_what_writes(code: str, expected: list[str]) -> None:
    assert list(unprotected(ast.parse(code))) == expected
