from __future__ import annotations

import json
import subprocess
import sys

import pytest
from source import SOURCE, designed_order, imported_modules, label, module_of, package_of, source_files

from holdfast.core.catalogue import KINDS, describe

NARROWER = {"weights": {"core"}, "select": {"core"}, "report": {"core", "select"}}
WITHOUT_TORCH = ("core", "select", "report")
NO_CODE = {"studies"}


def test_every_package_stands_in_the_design() -> None:
    packages = {folder.name for folder in SOURCE.iterdir() if (folder / "__init__.py").is_file()}
    assert packages - NO_CODE <= set(designed_order())


def test_packages_import_only_what_stands_above_them() -> None:
    order = designed_order()
    upward = [
        f"{label(path)} imports {module}"
        for path in source_files()
        if package_of(path)
        for module in imported_modules(path)
        if not allowed(package_of(path), module.split(".")[1], order)
    ]
    assert upward == []


def allowed(importer: str, imported: str, order: list[str]) -> bool:
    if importer == imported:
        return True
    if importer in NARROWER:
        return imported in NARROWER[importer]
    return importer in order and imported in order[: order.index(importer)]


def test_the_package_itself_imports_nothing_but_lazily() -> None:
    code = "import sys, holdfast; print(sorted(m for m in sys.modules if m.startswith('holdfast')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == (
        "['holdfast']\n"
    )


def test_no_plug_in_imports_a_sibling_plug_in() -> None:
    for kind in KINDS:
        inside = {plug_in.module: plug_in.path for plug_in in describe(kind) if plug_in.path is not None}
        for module, path in inside.items():
            siblings = set(imported_modules(path)) & (set(inside) - {module})
            # Commands that share code do so through files that are no commands.
            assert not siblings, f"{label(path)} imports {sorted(siblings)}"


@pytest.mark.parametrize("package", WITHOUT_TORCH)
def test_importing_leaves_torch_out(package: str) -> None:
    modules = [module_of(path) for path in source_files() if package_of(path) == package]
    code = (
        f"import sys\nfor name in {modules!r}:\n    __import__(name)\n"
        "    assert 'torch' not in sys.modules, f'{name} imports torch'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["list", "--json"], ["run", "--help"], ["--version"]])
def test_the_command_line_starts_without_heavy_packages(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom holdfast.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "import json; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stderr))
    assert not loaded & {"torch", "numpy", "scipy", "matplotlib", "onnx", "onnxruntime", "PIL", "rich", "yaml"}
