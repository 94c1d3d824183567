from __future__ import annotations

import io
from xml.etree import ElementTree

import pytest
from made_page import made_report
from made_study import ERROR
from PIL import Image

from holdfast.core.errors import InputError
from holdfast.report.heatmap import two_factor_image
from holdfast.report.tables import two_factor
from holdfast.select.table import Table


@pytest.fixture(scope="module")
def tables():
    report = made_report(seeds=3, bare=True)
    return [two_factor(report.study, Table(report.rows), c, ERROR) for c in report.candidates[:2]]


def test_svg_stands_alone_and_keeps_its_text(tables):
    text = two_factor_image(tables).decode()
    words = {e.text for e in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")}
    assert {"baseline", "fgsm (ema)", "fp16 (emulated)", "vehicle"} <= words


def test_png_is_an_image(tables):
    image = Image.open(io.BytesIO(two_factor_image(tables, form="png")))
    assert image.width > 600
    assert image.getpixel((3, 3))[:3] == (255, 255, 255)


def test_equal_tables_give_equal_bytes(tables):
    assert two_factor_image(tables) == two_factor_image(tables)
    assert two_factor_image(tables, form="png") == two_factor_image(tables, form="png")


@pytest.mark.parametrize(("count", "form"), [(0, "svg"), (1, "pdf")])
def test_other_requests_are_refused(tables, count, form):
    with pytest.raises(InputError):
        two_factor_image(tables[:count], form=form)
