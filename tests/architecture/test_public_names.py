from __future__ import annotations

import ast

import pytest
from source import SOURCE, tree

import holdfast
from holdfast.core.catalogue import describe
from holdfast.core.discover import load


@pytest.mark.parametrize("name", sorted(holdfast.HOMES))
def test_every_public_name_is_found(name: str) -> None:
    found = getattr(holdfast, name)
    assert found.__name__ == name
    assert found.__module__ == holdfast.HOMES[name]


def test_the_type_checker_sees_the_same_names() -> None:
    checked = {
        alias.name: node.module
        for node in ast.walk(tree(SOURCE / "__init__.py"))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("holdfast.")
        for alias in node.names
    }
    assert checked == holdfast.HOMES
    assert set(holdfast.__all__) == {*holdfast.HOMES, "HOMES", "home_of"}
    assert dir(holdfast) == sorted(holdfast.__all__)


@pytest.mark.parametrize("kind", ["method", "surgery", "average", "attack"])
def test_plug_ins_are_public_without_being_listed(kind: str) -> None:
    for plug_in in describe(kind):
        assert getattr(holdfast, plug_in.attribute) is load(kind, plug_in.name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    for name in ("Nope", "nope", "_Nope"):
        with pytest.raises(AttributeError, match=f"module 'holdfast' has no attribute '{name}'"):
            getattr(holdfast, name)
