"""The recipes of files: images that nobody stores, and files that are written and looked at."""

import json
import sys

import numpy as np
import pytest
from files import gigapixel, looking, pyramid
from files.scenes import BLOCK, DARK, ENLARGED, FACTORS, scenes
from images.digits import digit_sets

from keras_glimpse import open_image
from keras_glimpse.sources.arrays import ArrayImage

SIDE = 2 * BLOCK
ROUNDED = 0.501 / 255  # What a level may differ from the mean.


@pytest.fixture(scope="module")
def composed():
    """A scene of a digit and four strokes, its label, and all its pixels."""
    (image,), (label,) = scenes(digit_sets(smoke=True)[0], 1, SIDE, seed=0)
    return image, label, image.read(0, 0, 0, SIDE, SIDE)


def means(pixels, factor):
    rows = len(pixels) // factor
    return pixels.reshape(rows, factor, rows, factor, -1).mean(axis=(1, 3))


def run(monkeypatch, recipe, *arguments):
    monkeypatch.setattr(sys, "argv", [recipe.__name__, *map(str, arguments)])
    recipe.main()


# ---- Scenes ----


def test_levels_are_means(composed):
    image, _, pixels = composed
    for level, factor in enumerate(FACTORS):
        side = SIDE // factor
        assert image.levels[level] == (side, side)
        assert np.abs(image.read(level, 0, 0, side, side) - means(pixels, factor)).max() <= 0.501


def test_a_box_is_a_part_of_its_level(composed, rng):
    image, *_ = composed
    for level, (side, _) in enumerate(image.levels):
        whole = image.read(level, 0, 0, side, side)
        for y1, x1, y2, x2 in np.sort(rng.integers(side, size=(20, 2, 2)), axis=1).reshape(20, 4):
            box = image.read(level, y1, x1, y2 - y1 + 1, x2 - x1 + 1)
            assert np.array_equal(box, whole[y1 : y2 + 1, x1 : x2 + 1])


def test_a_scene_shows_what_an_array_shows(composed, rng):
    image, _, pixels = composed
    array = open_image(pixels)
    assert np.abs(image.thumbnail((10, 10)) - array.thumbnail((10, 10))).max() <= ROUNDED
    places = rng.random((10, 2))
    assert np.array_equal(image.patches(places, 48), array.patches(places, 48))
    with_levels = ArrayImage(pixels, [np.rint(means(pixels, factor)).astype(np.uint8) for factor in FACTORS[1:]])
    assert np.abs(image.patches(places, 48, (8, 16)) - with_levels.patches(places, 48, (8, 16))).max() <= 2 * ROUNDED
    assert np.abs(image.thumbnail((7, 7)) - with_levels.thumbnail((7, 7))).max() <= 2 * ROUNDED


def test_a_scene_has_one_digit_among_strokes(composed):
    image, label, pixels = composed
    digits = digit_sets(smoke=True)[0]
    squares = [pixels[y1:y2, x1:x2, 0] for y1, x1, y2, x2 in image.boxes]
    seen = means(squares[0][..., None], ENLARGED)[..., 0] - DARK / 2
    same = [np.corrcoef(seen.ravel(), each.ravel())[0, 1] for each in digits.images.numpy()]
    assert digits.labels[np.argmax(same)] == label and max(same) > 0.98
    assert len(squares) == 5 and all(square.max() > DARK for square in squares)
    dark = pixels.copy()
    for y1, x1, y2, x2 in image.boxes:
        dark[y1:y2, x1:x2] = 0
    assert dark.max() <= DARK


def test_blocks_are_the_scene(composed):
    image, *_ = composed
    blocks = [[image.block(row, column) for column in range(2)] for row in range(2)]
    assert np.array_equal(np.vstack([np.hstack(row) for row in blocks]), image.read(0, 0, 0, SIDE, SIDE))


@pytest.mark.slow
def test_scenes_differ_by_seed_only():
    digits = digit_sets(smoke=True)[0]
    shows = lambda seed: [image.thumbnail((10, 10)) for image in scenes(digits, 3, SIDE, seed).images]  # noqa: E731
    first = shows(0)
    assert np.array_equal(first, shows(0)) and not np.array_equal(first, shows(1)) and not np.array_equal(first[0], first[1])


# ---- Files ----


def test_pyramid(monkeypatch, tmp_path):
    pytest.importorskip("pyvips")
    path = tmp_path / "board.tif"
    run(monkeypatch, pyramid, "--smoke", "--out", path, "--side", 1500)
    known = json.loads(path.with_suffix(".json").read_text())
    assert open_image(path).shape == (1500, 1500, 3) and known["side"] == 1500 and len(known["boxes"]) == 1


@pytest.mark.slow
def test_gigapixel(monkeypatch, tmp_path, capsys):
    for needed in ("pyvips", "rasterio", "matplotlib"):
        pytest.importorskip(needed)
    run(monkeypatch, gigapixel, "--smoke", "--out", tmp_path)
    assert "What it takes to look" in capsys.readouterr().out
    figures = json.loads((tmp_path / "gigapixel.json").read_text())
    assert len(figures["errors"]) == 3 and len(figures["pointing"]) == len(figures["in_sight"]) == 2
    header, *rows = (tmp_path / "gigapixel.csv").read_text().splitlines()
    assert header.startswith("what,side,says") and len(rows) == 6
    assert (tmp_path / "figures/gigapixel.png").stat().st_size > 1000


def test_an_image_without_its_levels(composed):
    image, _, pixels = composed
    source = looking._Finest(image)
    assert np.allclose(source.thumbnail((10, 10)), open_image(pixels).thumbnail((10, 10))) and source.pixels_read == SIDE**2
