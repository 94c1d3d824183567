from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from made_page import MadeShow, made_report, made_show
from PIL import Image

from holdfast.core.contracts import Picture
from holdfast.core.errors import InputError
from holdfast.report.frames import frame, worst_frames


def test_before_and_after_stand_side_by_side():
    (pair,) = worst_frames(made_report())
    assert [f.who for f in pair.frames] == ["baseline", "fgsm (ema)"]


def test_truth_lies_below_the_other_lines():
    show = made_show("fgsm", "last", 0.2)
    drawn = frame(show.pictures[0], show)
    assert [role for role, _ in drawn.lines] == ["truth", "truth", "reference", "deployed"]
    assert drawn.lines[0][1].startswith("72.0,30.0 ")


def test_the_image_is_inside_the_page():
    show = made_show("fgsm", "last", 0.2)
    kind, _, data = frame(show.pictures[0], show).source.partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (160, 96)


def test_points_at_infinity_and_unknown_roles_are_drawn_as_far_as_possible():
    line = np.array([[1.0, 2.0], [np.nan, 3.0], [4.0, 5.0]])
    picture = Picture(image=np.zeros((8, 8, 3), dtype=np.uint8), lines={"other": [line], "truth": [line[1:2]]})
    drawn = frame(picture, MadeShow("a", "last", (), {}))
    assert drawn.lines == (("other", "1.0,2.0 4.0,5.0"),)


def test_another_image_is_refused():
    with pytest.raises(InputError, match="uint8"):
        frame(Picture(image=np.zeros((8, 8))), MadeShow("a", "last", (), {}))
