from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from made_page import MadeShow, made_report
from made_study import MadeRun, made_study
from markupsafe import escape

from holdfast.core.contracts import Picture
from holdfast.report.html import render
from holdfast.report.inputs import ReportInput
from holdfast.select.verdict import judge

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Sections, ids, addresses and visible text; raises on tags that do not close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.addresses, self.sections, self.text = [], [], [], [], []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [names["id"]] if "id" in names else []
        self.addresses += [v for k, v in attrs if k in {"src", "href", "xlink:href", "action", "srcset", "data"}]
        self.sections += [names["id"]] if tag == "section" else []
        if tag in {"svg", "img"} and "aria-hidden" not in names:
            assert names.get("aria-label") or names.get("alt"), "a picture without words"

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"style", "script"}:
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def text():
    return render(made_report())


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_the_page_points_nowhere_outside(text, page):
    assert not re.search(r"https?:|//[a-z]|@import|<script|<iframe|<object", text)
    assert all(a.startswith(("#", "data:")) for a in page.addresses)
    assert not [u for u in re.findall(r"url\(([^)]*)\)", text) if not u.startswith("#")]


def test_verdict_comes_first_and_provenance_last(page):
    assert page.sections == [
        "verdict", "two-factor", "frames", "traces", "pareto", "recipes", "attacks", "failures", "flags", "provenance",
    ]  # fmt: skip
    assert page.words.index("fgsm (ema) beats baseline") < page.words.index("Is the input to blame")


def test_ids_are_unique_and_links_lead_somewhere(page):
    assert len(set(page.ids)) == len(page.ids)
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)


def test_emulated_stands_in_the_column_title(text):
    assert re.search(r'<th scope="col">emulated<small>fp16 \(emulated\)', text)


def test_gates_failures_flags_and_provenance_are_said(page):
    for words in ("PASS", "INCONCLUSIVE", "would decide", "loss became NaN in step 12", "transferred",
                  "versions.torch 2.13.0", "(4, 4)", "4 rows of earlier settings"):  # fmt: skip
        assert words in page.words


def test_frames_show_the_three_lines_before_and_after(text):
    assert text.count('<polyline class="line deployed"') == 2
    assert "under vehicle" in text


def test_a_task_without_pictures_leaves_sections_out():
    sections = Page(render(made_report(bare=True))).sections
    assert sections == ["verdict", "two-factor", "pareto", "recipes", "provenance"]


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_few_seeds(seeds):
    words = Page(render(made_report(seeds, bare=True))).words
    assert "p =" not in words
    assert ("not tested" in words) == (seeds < 3)


def test_nothing_finished_is_a_page_too():
    report = made_report(bare=True)
    empty = dataclasses.replace(report, rows=[], verdict=judge(report.study, []), failures={"all": "NaN"})
    page = Page(render(empty))
    assert page.sections == ["verdict", "failures", "provenance"]
    assert "no recipe has rows" in page.words


def test_rendering_twice_gives_the_same_page(text):
    assert render(made_report()) == text


EVIL = "<img src=x onerror=alert(1)>\"'&{{7*7}}$x$"


def test_whatever_the_user_wrote_stays_text():
    report = made_report(
        description=EVIL, gates=[{"name": EVIL, "metric": EVIL, "max": 1.0}],
        recipes={"baseline": {"note": EVIL}, "jitter": {}, "fgsm": {"averages": {"ema": {}}}},
    )  # fmt: skip
    picture = Picture(image=np.zeros((8, 8, 3), dtype=np.uint8), lines={"truth": [np.ones((2, 2))]}, caption=EVIL)
    hostile = dataclasses.replace(
        report, failures={EVIL: EVIL}, provenance={EVIL: EVIL},
        rows=[dataclasses.replace(r, flags=(EVIL,), executed=EVIL) for r in report.rows],
        shows=(MadeShow("baseline", "last", (picture,), {f"deployed: {EVIL}": np.zeros(5)}),),
    )  # fmt: skip
    text = render(hostile)
    page = Page(text)
    assert "<img" not in text
    assert "onerror" in page.words
    assert "{{7*7}}$x$" in page.words
    assert str(escape(EVIL)) in text


def test_names_of_recipes_and_attacks_stay_text():
    report = made_report(recipes={"baseline": {}, "jitter": {}, "fgsm": {}})
    rename = {"jitter": EVIL}
    rows = [dataclasses.replace(r, recipe=rename.get(r.recipe, r.recipe),
                                condition=r.condition.replace("fgsm", '<b>"x)')) for r in report.rows]  # fmt: skip
    recipes = {rename.get(name, name): body for name, body in report.study.recipes.items()}
    study = report.study.model_copy(update={"recipes": recipes})
    text = render(dataclasses.replace(report, study=study, rows=rows, verdict=judge(study, rows), gates=(), shows=()))
    assert "<img" not in text
    assert '<b>"x' not in text
    Page(text)


def test_a_long_sweep_is_drawn_without_crowding():
    names = ["baseline", *(f"fgsm[eps={i}]" for i in range(24))]
    study = made_study(3, recipes={name: {} for name in names})
    run = MadeRun(study, error={n: 0.3 + 0.01 * i for i, n in enumerate(names)}, growth=dict.fromkeys(names, 1.2),
                  cost=dict.fromkeys(names, 1.0))  # fmt: skip
    text = render(ReportInput(study=study, rows=run.rows, verdict=judge(study, run.rows)))
    page = Page(text)
    assert all(name in page.words for name in names)
    drawing = text[text.index('id="attacks"') : text.index('id="provenance"')]
    assert ">baseline<" in drawing
    assert ">fgsm[eps=20]<" not in drawing


def test_environments_are_told_apart_where_there_are_several():
    report = dataclasses.replace(made_report(bare=True), provenance={"one": {"cpu": "x"}, "two": {"cpu": "y"}})
    assert "one cpu x two cpu y" in Page(render(report)).words
    flat = dataclasses.replace(report, provenance={"cpu": "x"})
    assert Page(render(flat)).words.endswith("cpu x")
