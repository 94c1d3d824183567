from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.config import load_study, parse_study
from holdfast.core.errors import InputError
from holdfast.core.sweep import expand_sweep, with_path

SMALL: dict[str, Any] = {"name": "s", "task": "lanes", "recipes": {"baseline": None}}


def study_with(**changes: Any) -> dict[str, Any]:
    return {**SMALL, **changes}


# --- reading --------------------------------------------------------------------------------------------


def test_the_least_study_is_complete() -> None:
    study = parse_study(SMALL)
    assert study.seeds() == [(0, 0)]
    assert study.training_of("baseline") == study.training


@pytest.mark.parametrize("path", sorted(Path("src/holdfast/studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_are_valid(path: Path) -> None:
    assert load_study(path).name == path.stem


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"name": "s"}, "task: Field required"),
        (study_with(recipe={}), r"unknown key 'recipe' \(did you mean 'recipes'\?\)"),
        (study_with(training={"epoch": 3}), r"unknown key 'training.epoch' \(did you mean 'epochs'\?\)"),
        (study_with(training={"lr": 0}), "training.lr: Input should be greater than 0"),
        (study_with(recipes={"baseline": {"metods": []}}), r"'recipes.baseline.metods' \(did you mean 'methods'\?\)"),
        (
            study_with(recipes={"baseline": {"training": {"lrr": 1}}}),
            r"recipes.baseline.training: unknown key 'lrr' \(did you mean 'lr'\?\)",
        ),
        (study_with(gates=[{"name": "g", "metric": "m", "maxx": 1}]), r"'gates.0.maxx' \(did you mean 'max'\?\)"),
        (study_with(gates=[{"name": "g", "metric": "m"}]), "gates.0: give one of"),
        (study_with(gates=[{"name": "g", "metric": "m", "max": 1, "recipe": "no"}]), "recipe 'no' is not one of"),
        (study_with(init_seeds=[0, 1], order_seeds=[0, 1, 2]), "different lengths"),
        (study_with(recipes={"a": {}, "b": {}}), "select.baseline 'baseline' is not one of"),
        (study_with(subjects=["onnxruntime"]), "subjects.0: String should match pattern"),
        (study_with(recipes=[]), "recipes: Input should be a valid dictionary"),
        (study_with(recipes={}), "recipes: Dictionary should have at least 1 item"),
        (study_with(name="../up"), "name: String should match pattern"),
    ],
)
def test_mistakes_are_named(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_study(raw)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "holds no mapping"),
        ("", "holds no mapping"),
        ("name: s\ntask: t\nrecipes: {a: {}}\nname: r", "not valid YAML: 'name' is written twice .*line 4"),
        ("name: s\nrecipes:\n  a: {}\n  a: {}", "not valid YAML: 'a' is written twice .*line 4"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML: could not determine a constructor"),
        (b"\xff\xfe\x00", "not valid YAML"),
    ],
)
def test_files_that_are_no_study(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError, match=f"study.yaml: {message}"):
        load_study(path)


def test_on_is_a_word_and_true_is_none(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("name: s\ntask: t\nrecipes: {a: {methods: [{mixup: {on: other, joined: true, no: off}}]}}")
    assert load_study(file).recipes["a"].methods == ({"mixup": {"on": "other", "joined": True, "no": "off"}},)


def test_a_missing_file() -> None:
    with pytest.raises(InputError, match="no such study file"):
        load_study(Path("absent.yaml"))


def test_seeds_are_zipped_or_crossed() -> None:
    assert parse_study(study_with(init_seeds=[1, 2], order_seeds=[3, 4])).seeds() == [(1, 3), (2, 4)]
    assert parse_study(study_with(init_seeds=[1, 2], order_seeds=[3])).seeds() == [(1, 3), (2, 3)]
    crossed = parse_study(study_with(init_seeds=[1, 2], order_seeds=[3, 4], pairing="product"))
    assert crossed.seeds() == [(1, 3), (1, 4), (2, 3), (2, 4)]


# --- sweeps ---------------------------------------------------------------------------------------------

BASE = {"methods": ["mixup", {"adversarial": {"attack": {"fgsm": {"eps": 1}}}}, {"noise": None}], "note": "n"}
PATHS = ["methods.1.adversarial.attack.fgsm.eps", "training.lr", "averages.ema.decay", "methods.0.mixup.alpha",
         "methods.2.noise.sigma", "note"]  # fmt: skip
values = st.lists(st.integers(), min_size=1, max_size=3, unique=True)
grids = st.dictionaries(st.sampled_from(PATHS), values, min_size=1)


def leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every value of a nest by dotted path, with bare names and empty options written alike."""
    node = {node: None} if isinstance(node, str) and path[:1] == ("methods",) else node
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if items is None or not node:
        yield ".".join(path), node or None
    for key, inner in items or ():
        yield from leaves(inner, (*path, str(key)))


@given(grids)
def test_a_point_is_the_base_with_its_values_and_nothing_else(grid: dict[str, list[int]]) -> None:
    before = dict(leaves(BASE))
    points = expand_sweep({"sweep": {"base": "base", "grid": grid}}, {"base": BASE}, where="study")
    expected = 1
    for axis in grid.values():
        expected *= len(axis)
    assert len(points) == expected
    assert dict(leaves(BASE)) == before
    seen = set()
    for body in points.values():
        found = dict(leaves(body))
        seen.add(tuple(found[path] for path in grid))
        changed = {path for path in {**before, **found} if before.get(path) != found.get(path)}
        assert all(any(path.startswith(change) or change.startswith(path) for path in grid) for change in changed)
    assert seen == {tuple(found or None for found in point) for point in product_by_hand(list(grid.values()))}


def product_by_hand(axes: list[list[int]]) -> list[tuple[int, ...]]:
    points: list[tuple[int, ...]] = [()]
    for axis in axes:
        points = [(*point, value) for point in points for value in axis]
    return points


def test_a_swept_study() -> None:
    recipes = {"baseline": {}, "fgsm": {"methods": [{"adversarial": {"attack": {"fgsm": {"eps": 1}}}}]}}
    grid = {"methods.0.adversarial.attack.fgsm.eps": [0.5, 2], "training.lr": 1e-3}
    study = parse_study(study_with(recipes=recipes, sweep={"s": {"base": "fgsm", "grid": grid}}))
    assert list(study.recipes) == ["baseline", "fgsm", "s[eps=0.5,lr=0.001]", "s[eps=2,lr=0.001]"]
    assert study.training_of("s[eps=2,lr=0.001]").lr == 1e-3
    assert study.recipes["s[eps=2,lr=0.001]"].methods[0]["adversarial"] == {"attack": {"fgsm": {"eps": 2}}}


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ([], None),
        ([1], "sweep: must map a name"),
        ({"s": {"base": "baseline"}}, "sweep.s: needs exactly the keys base and grid"),
        ({"s": {"base": "baselin", "grid": {}}}, r"'baselin' is no recipe \(did you mean 'baseline'\?\)"),
        ({"s": {"base": "baseline", "grid": {"training.lr": []}}}, "sweep.s.grid.training.lr: no values"),
        ({"s": {"base": "baseline", "grid": {"training.lr": [1, "1"]}}}, "two recipes are called 's.lr=1.'"),
        ({"s": {"base": "baseline", "grid": {"training.epoch": 1}}}, "did you mean 'epochs'"),
        ({"s": {"base": "baseline", "grid": {"methods.0.x": 1}}}, "recipes.s.x=1..methods: Input should be"),
    ],
)
def test_mistakes_in_a_sweep(sweep: Any, message: str | None) -> None:
    if message is None:
        assert list(parse_study(study_with(sweep=sweep)).recipes) == ["baseline"]
        return
    with pytest.raises(InputError, match=message):
        parse_study(study_with(sweep=sweep))


@pytest.mark.parametrize(
    ("path", "message"),
    [("a.3", "no position '3' among 2"), ("a.x", "no position 'x' among 2"), ("b.c", "leads to 'c' of 5")],
)
def test_paths_that_lead_nowhere(path: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_path({"a": [1, 2], "b": 5}, path.split("."), 0, where="here")
