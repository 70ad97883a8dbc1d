"""What a model says of each validation image: the two files beside it."""

import csv
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from netpress.base.model_files import MISTAKES, PREDICTIONS
from netpress.core.predictions import COLUMNS, SHOWN, SIDE, packed, prediction_files
from netpress.core.splits import DeviceSplit

CLASSES = ("apple, green", "bread", "soup")


def split(labels, channels=1, side=4):
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, side, side, channels)
    return DeviceSplit(images.contiguous(), torch.tensor(labels), len(CLASSES), (0.5,), (0.5,), False)


def files_of(labels, named, confidence, **options):
    text = packed(torch.tensor(named), torch.tensor(confidence))
    return prediction_files(text, split(labels, **options), CLASSES)


def rows_of(found):
    return list(csv.DictReader(io.StringIO(found[PREDICTIONS].decode())))


def test_every_image_has_a_row_with_its_class_and_the_one_that_is_named():
    found = files_of([0, 1, 2, 2], [0, 2, 2, 1], [0.5, 0.75, 1.0, 0.9])
    assert rows_of(found) == [
        dict(zip(COLUMNS, row, strict=True))
        for row in (
            ("0", "apple, green", "apple, green", "0.5000", ""),
            ("1", "bread", "soup", "0.7500", "2"),
            ("2", "soup", "soup", "1.0000", ""),
            ("3", "soup", "bread", "0.9000", "1"),
        )
    ]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_the_surest_mistakes_stand_on_the_picture_in_order(channels, mode):
    found = files_of([0, 1, 2, 2], [0, 2, 2, 1], [0.5, 0.75, 1.0, 0.9], channels=channels)
    picture = Image.open(io.BytesIO(found[MISTAKES]))
    assert (picture.mode, picture.size) == (mode, (8, 4))
    pixels = np.asarray(picture).reshape(4, 8, channels)
    assert (pixels[:, :4] == 3).all() and (pixels[:, 4:] == 1).all()


def test_large_images_are_made_smaller_on_the_picture():
    found = files_of([0, 1], [1, 0], [0.5, 0.75], channels=3, side=4 * SIDE)
    assert Image.open(io.BytesIO(found[MISTAKES])).size == (2 * SIDE, SIDE)


def test_without_a_mistake_there_is_no_picture():
    found = files_of([0, 1], [0, 1], [0.5, 0.6])
    assert {*found} == {PREDICTIONS}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(34, 100)), min_size=1, max_size=40))
def test_no_mistake_that_is_left_out_is_surer_than_one_that_is_shown(images):
    labels, named, percent = map(list, zip(*images, strict=True))
    rows = rows_of(files_of(labels, named, [p / 100 for p in percent]))
    assert [row["actual"] for row in rows] == [CLASSES[k] for k in labels]
    assert [row["predicted"] for row in rows] == [CLASSES[k] for k in named]
    wrong = [row for row in rows if row["actual"] != row["predicted"]]
    shown = sorted((row for row in rows if row["on_sheet"]), key=lambda row: int(row["on_sheet"]))
    assert all(row in wrong for row in shown) and len(shown) == min(SHOWN, len(wrong))
    surest = [float(row["confidence"]) for row in shown]
    assert surest == sorted(surest, reverse=True)
    assert all(float(row["confidence"]) <= surest[-1] for row in wrong if not row["on_sheet"])
