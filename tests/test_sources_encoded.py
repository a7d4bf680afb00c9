"""JPEG and PNG of which parts are read, against decoding the whole."""

import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from keras_glimpse import MultiScaleCrop
from keras_glimpse.ops.thumbnail import downsample
from keras_glimpse.sources.encoded import Decoded, EncodedImage
from keras_glimpse.sources.image import UnreadableImage

LOCATIONS = np.array([[0.0, 0.0], [1.0, 1.0], [0.3, 0.6], [0.52, 0.5], [0.9, 0.05]], np.float32)
INSIDE = np.array([[0.3, 0.6], [0.52, 0.5], [0.61, 0.41]], np.float32)


def smooth(rng, height, width, channels=3, detail=12):
    """Random uint8 pixels, interpolated from every `detail`-th."""
    coarse = rng.random((height // detail + 2, width // detail + 2, channels))
    pixels = tf.image.resize(coarse, (height, width), "bicubic").numpy()
    return np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)


def encoded(image, format="JPEG", **options):
    image = Image.fromarray(np.squeeze(image)) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    image.save(file, format, **({"quality": 92} if format == "JPEG" else {}) | options)
    return file.getvalue()


def png16(pixels):
    return tf.io.encode_png(pixels.astype(np.uint16)).numpy()


def decoded(contents, channels=3, **options):
    if contents.startswith(b"\xff\xd8"):
        return tf.io.decode_jpeg(contents, channels, dct_method="INTEGER_ACCURATE", **options).numpy()
    return tf.io.decode_png(contents, channels, **options).numpy()


def whole(image, level=0):
    return image.read(level, 0, 0, *image.levels[level])


def assert_patches(image, pixels, scales=(1,), atol=1e-5, locations=LOCATIONS):
    expected = MultiScaleCrop(9, scales)(np.repeat(pixels[None], len(locations), 0), locations)
    np.testing.assert_allclose(image.patches(locations, 9, scales), expected, atol=atol)


def assert_thumbnail(image, pixels, size, atol=1e-5):
    np.testing.assert_allclose(image.thumbnail(size), downsample(pixels[None], size)[0], atol=atol)


JPEGS = {
    "4:4:4": lambda pixels: encoded(pixels, subsampling=0),
    "4:2:2": lambda pixels: encoded(pixels, subsampling=1),
    "4:2:0": lambda pixels: encoded(pixels, subsampling=2),
    "grey": lambda pixels: encoded(pixels[..., 0]),
    "CMYK": lambda pixels: encoded(Image.fromarray(pixels).convert("CMYK")),
    "restarts": lambda pixels: encoded(pixels, restart_marker_blocks=3),
}


@pytest.fixture(autouse=True)
def small_images_in_parts(monkeypatch):
    """As large ones, so that tests are quick."""
    monkeypatch.setattr("keras_glimpse.sources.encoded.SMALL", 0)


@pytest.mark.parametrize("kind", JPEGS)
def test_every_box_of_a_jpeg_equals_the_same_of_the_whole(rng, kind):
    contents = JPEGS[kind](rng.integers(0, 256, (263, 519, 3), dtype=np.uint8))  # Noise: every difference would show.
    image = EncodedImage(contents)
    assert image.reads_parts and image.shape == (263, 519, 1 if kind == "grey" else 3) and len(image.levels) == 4
    for level, (rows, columns) in enumerate(image.levels):
        full = decoded(contents, image.channels, ratio=2**level)
        assert full.shape[:2] == (rows, columns)
        for _ in range(30):
            height, width = rng.integers(1, min(60, rows), 2)
            top, left = rng.integers(0, rows - height + 1), rng.integers(0, columns - width + 1)
            box = image.read(level, top, left, height, width)
            np.testing.assert_array_equal(box, full[top : top + height, left : left + width])


@pytest.mark.parametrize("kind", JPEGS)
def test_patches_and_thumbnails_of_a_jpeg(rng, kind):
    contents = JPEGS[kind](smooth(rng, 256, 384, detail=40))
    image = EncodedImage(contents)
    pixels = decoded(contents, image.channels)
    assert image.levels == ((256, 384), (128, 192), (64, 96), (32, 48))
    assert_patches(image, pixels)
    # Of 255: by the rounding of libjpeg; and where edges fall between pixels of a level, by interpolation, which blurs.
    # Of 4:2:2, colours of levels are half as fine from left to right.
    rounded, blurred = (60, 60) if kind == "4:2:2" else (6, 14)
    for size in [(128, 192), (64, 96), (32, 48), (16, 24), (1, 1)]:
        assert_thumbnail(image, pixels, size, atol=rounded / 255)
    for size in [(200, 300), (100, 150), (50, 60), (20, 31)]:
        assert_thumbnail(image, pixels, size, atol=blurred / 255)
    assert_patches(image, pixels, (2, 4, 8), blurred / 255, INSIDE)


def test_a_thumbnail_reads_the_coarsest_level_that_serves(rng):
    image = EncodedImage(encoded(smooth(rng, 256, 384)))
    image.thumbnail((30, 40))
    assert image.pixels_read == 32 * 48


@pytest.mark.parametrize("side", [1365, 2047])
def test_levels_that_do_not_divide_the_sides(rng, side):
    """A place in them is off by at most 1/256 of the side, by which a smooth image changes little."""
    contents = encoded(smooth(rng, 128, side, detail=64))
    image = EncodedImage(contents)
    assert len(image.levels) == 4 and image.levels[3][1] * 8 > side
    pixels = decoded(contents)
    assert_thumbnail(image, pixels, (16, side // 8), atol=20 / 255)
    assert_patches(image, pixels, (8,), 25 / 255, np.array([[0.5, 0.05], [0.5, 0.5], [0.5, 0.95]], np.float32))


PNGS = {
    "1": (lambda pixels: Image.fromarray(pixels).convert("1"), 1),
    "L": (lambda pixels: Image.fromarray(pixels).convert("L"), 1),
    "LA": (lambda pixels: Image.fromarray(pixels).convert("LA"), 1),
    "P": (lambda pixels: Image.fromarray(pixels).quantize(7), 3),
    "RGB": (lambda pixels: Image.fromarray(pixels), 3),
    "RGBA": (lambda pixels: Image.fromarray(np.concatenate([pixels, pixels[..., :1]], axis=-1)), 3),
}


@pytest.mark.parametrize("options", [{}, {"transparency": 3}, {"bits": 4}], ids=str)
@pytest.mark.parametrize("mode", PNGS)
def test_png(rng, mode, options):
    make, channels = PNGS[mode]
    picture = make(smooth(rng, 61, 87))
    if "A" in mode or mode == "RGB" and "transparency" in options:
        options = {}
    contents = encoded(picture, "PNG", **options)
    image, picture = EncodedImage(contents), Image.open(io.BytesIO(contents))
    pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB")).reshape(61, 87, channels)  # Alpha dropped.
    assert image.shape == pixels.shape and image.dtype == np.uint8 and not image.reads_parts and len(image.levels) == 1
    np.testing.assert_array_equal(whole(image), pixels)
    assert_patches(image, pixels, scales=(1, 2))
    assert_thumbnail(image, pixels, (13, 20))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits(rng, channels):
    pixels = rng.integers(0, 2**16, (40, 50, channels))
    image = EncodedImage(png16(pixels))
    assert image.dtype == np.uint16
    pixels = pixels[..., : 1 if channels < 3 else 3].astype(np.uint16)
    np.testing.assert_array_equal(whole(image), pixels)
    assert_patches(image, pixels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("color", [False, True], ids=["grey", "color"])
@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG"])
def test_channels(rng, kind, color, channels):
    pixels = smooth(rng, 48, 64, 3 if color else 1)
    contents = encoded(pixels, "PNG") if kind == "PNG" else encoded(pixels, progressive=kind == "progressive")
    image = EncodedImage(contents, channels)
    assert image.shape == (48, 64, channels)
    np.testing.assert_array_equal(whole(image), decoded(contents, channels))


def test_progressive_jpeg_is_decoded_once_and_kept(rng, tmp_path):
    path = tmp_path / "progressive.jpg"
    path.write_bytes(encoded(smooth(rng, 96, 128), progressive=True))
    image = EncodedImage(path)
    pixels = decoded(path.read_bytes())
    assert not image.reads_parts
    assert_patches(image, pixels, scales=(1, 2))
    assert_thumbnail(image, pixels, (13, 20))
    path.unlink()
    assert_patches(image, pixels, scales=(1, 2))


def test_jpeg_of_several_scans(rng):
    """Baseline, but each component in a scan of its own: put together from three grey JPEGs."""
    greys = [encoded(each) for each in np.moveaxis(smooth(rng, 40, 56), -1, 0)]
    start, tables, scan = (greys[0].index(marker) for marker in (b"\xff\xc0", b"\xff\xc4", b"\xff\xda"))
    components = b"".join(bytes([n, 0x11, 0]) for n in (1, 2, 3))
    frame = b"\xff\xc0\x00\x11" + greys[0][start + 4 : start + 9] + b"\x03" + components
    scans = [b"\xff\xda\x00\x08\x01" + bytes([n, 0, 0, 63, 0]) + grey[scan + 10 : -2] for n, grey in enumerate(greys, 1)]
    contents = greys[0][:start] + frame + greys[0][tables:scan] + b"".join(scans) + b"\xff\xd9"
    image = EncodedImage(contents)
    assert not image.reads_parts and image.shape == (40, 56, 3)
    np.testing.assert_array_equal(whole(image), decoded(contents))


@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG"])
@pytest.mark.parametrize("orientation", range(10))
def test_orientation(rng, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    format, options = ("PNG", {}) if kind == "PNG" else ("JPEG", {"progressive": kind == "progressive"})
    contents = encoded(smooth(rng, 75, 97), format, exif=exif, **options)
    image, pixels = EncodedImage(contents), upright(contents)
    theirs = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(contents))))
    np.testing.assert_allclose(pixels, theirs, atol=3)  # Pillow may round otherwise than TensorFlow.
    assert image.shape == pixels.shape
    np.testing.assert_array_equal(whole(image), pixels)
    np.testing.assert_array_equal(image.read(0, 11, 30, 40, 25), pixels[11:51, 30:55])
    assert_patches(image, pixels)


@pytest.mark.parametrize("size", [(256, 512), (263, 519)])  # Levels that fit, and that do not.
@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientation_of_levels(rng, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    contents = encoded(smooth(rng, *size, detail=40), exif=exif, subsampling=0)
    image, pixels = EncodedImage(contents), upright(contents)
    assert len(image.levels) == 4
    assert_patches(image, pixels, (2, 8), 14 / 255, INSIDE)
    assert_thumbnail(image, pixels, (21, 20), 14 / 255)


def upright(contents):
    """Decoded by TensorFlow and turned by Pillow."""
    image = Image.fromarray(decoded(contents))
    image.info["exif"] = Image.open(io.BytesIO(contents)).info["exif"]
    return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("PNG", (100000, 3)), ("JPEG", (65000, 3)), ("JPEG", (3, 65000))]  # No side of a JPEG is longer than 65535.
    + [(kind, shape) for kind in ("JPEG", "PNG") for shape in [(1, 1), (1, 9), (2, 2)]],
)
def test_extreme_shapes(rng, kind, shape):
    contents = encoded(Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)), kind)
    image, pixels = EncodedImage(contents), decoded(contents)
    assert image.shape == (*shape, 3)
    np.testing.assert_array_equal(image.read(0, 0, 0, 1, 1), pixels[:1, :1])
    np.testing.assert_array_equal(whole(image), pixels)
    np.testing.assert_allclose(image.thumbnail((1, 1))[0, 0], pixels.mean((0, 1)) / 255, atol=4 / 255)


@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG"])
@pytest.mark.parametrize("on_disk", [False, True], ids=["bytes", "file"])
def test_threads(rng, kind, on_disk, tmp_path):
    pixels = smooth(rng, 256, 384)
    contents = encoded(pixels, "PNG") if kind == "PNG" else encoded(pixels, progressive=kind == "progressive")
    (tmp_path / "image").write_bytes(contents)
    image = EncodedImage(tmp_path / "image" if on_disk else contents)
    locations = rng.random((32, 1, 2))
    alone = [EncodedImage(contents).patches(location, 16, (1, 4)) for location in locations]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda location: image.patches(location, 16, (1, 4)), locations))
    np.testing.assert_array_equal(together, alone)
    reads = 64 if kind == "JPEG" else 1  # One for each scale.
    if image.bytes_read is not None or not on_disk:  # TensorFlow reads a few bytes in each new thread.
        assert 0 <= image.bytes_read - reads * len(contents) < 1000


def test_the_format_is_told_from_the_contents(rng, tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(encoded(smooth(rng, 20, 20), "PNG"))
    for given in (path, str(path)):
        image = EncodedImage(given)
        assert image.name == str(path) and not image.reads_parts
    assert EncodedImage(path, name="the third").name == "the third"


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"GIF89a and more", "photo.jpg: expected a JPEG or PNG; the file begins with b'GIF89a'"),
        (b"\xff\xd8", r"photo.jpg: expected a JPEG or PNG; the file begins with b'\\xff\\xd8'"),
        (b"", "photo.jpg: expected a JPEG or PNG; the file is empty"),
        (b"\xff\xd8\xff", "photo.jpg: cannot read the header of the JPEG"),
        (b"\x89PNG\r\n\x1a\n", "photo.jpg: cannot read the header of the PNG"),
    ],
)
def test_other_contents(contents, message, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(contents)
    with pytest.raises(UnreadableImage, match=message):
        EncodedImage(path)
    with pytest.raises(UnreadableImage, match=message.replace("photo.jpg", "^third")):
        EncodedImage(contents, name="third")


def test_what_is_no_file(tmp_path):
    with pytest.raises(UnreadableImage, match="missing.png: cannot open the file: No such file"):
        EncodedImage(tmp_path / "missing.png")
    with pytest.raises(UnreadableImage, match="cannot open the file: Is a directory"):
        EncodedImage(tmp_path)
    with pytest.raises(TypeError, match="os.PathLike"):
        EncodedImage(5)
    with pytest.raises(UnreadableImage, match="a JPEG or PNG is read with 1 or 3 channels; expected 2"):
        EncodedImage(tmp_path / "missing.png", channels=2)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_file_that_changes(rng, kind, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(encoded(smooth(rng, 64, 64), kind))
    image = EncodedImage(path)
    os.utime(path, ns=(0, 0))
    with pytest.raises(UnreadableImage, match="image: the file was changed or removed after it had been opened"):
        image.thumbnail((8, 8))
    image = EncodedImage(path)
    path.unlink()
    with pytest.raises(UnreadableImage, match="image: cannot read .* No such file"):
        image.thumbnail((8, 8))


@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG"])
def test_truncated(rng, kind):
    pixels = smooth(rng, 96, 128)
    contents = encoded(pixels, "PNG") if kind == "PNG" else encoded(pixels, progressive=kind == "progressive")
    for length in [*range(0, len(contents), len(contents) // 40), *range(len(contents) - 20, len(contents))]:
        with pytest.raises(UnreadableImage, match="cut: "):
            whole(EncodedImage(contents[:length], name="cut"))


def test_cmyk_is_not_converted_to_grey(rng):
    with pytest.raises(UnreadableImage, match="bytes: TensorFlow cannot decode this JPEG to 1 channel;"):
        whole(EncodedImage(JPEGS["CMYK"](smooth(rng, 32, 32)), channels=1))


def test_limit_on_pixels(rng):
    pixels = smooth(rng, 50, 60)
    for contents in (encoded(pixels, "PNG"), encoded(pixels, progressive=True)):
        with pytest.raises(UnreadableImage, match="decoded whole, and has 50x60 = 3000 pixels; max_pixels is 2999"):
            EncodedImage(contents, max_pixels=2999)
        assert EncodedImage(contents, max_pixels=3000).shape == (50, 60, 3)
    assert EncodedImage(encoded(pixels), max_pixels=10).thumbnail((5, 6)).shape == (5, 6, 3)


def test_limit_of_pillow_is_not_asked(rng, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Above it Pillow warns, far above it raises.
    for kind in ("JPEG", "PNG"):
        assert EncodedImage(encoded(smooth(rng, 50, 60), kind)).shape == (50, 60, 3)


def test_a_claim_of_many_pixels_is_noticed_before_they_are_decoded():
    contents = bytearray(encoded(np.zeros((50, 60), np.uint8), progressive=True))
    at = contents.index(b"\xff\xc2") + 5
    contents[at : at + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(UnreadableImage, match="65535x65535 = 4294836225 pixels; max_pixels is 134217728"):
        EncodedImage(bytes(contents))


def test_without_pillow(monkeypatch, rng):
    contents = encoded(smooth(rng, 20, 20))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"keras-glimpse\[files\]"):
        EncodedImage(contents)


def broken(rng, contents):
    """Cut short, or with bytes changed or inserted: a few, anywhere or in the header."""
    data, kind = bytearray(contents), rng.integers(3)
    reach = len(data) if rng.random() < 0.5 else 200
    if kind == 0:
        return bytes(data[: rng.integers(len(data))])
    for at in rng.integers(0, reach, rng.integers(1, 6)):
        data[at : at + (kind == 1)] = rng.bytes(1)
    return bytes(data)


def assert_readable_or_refused(contents):
    """Whether it was read: all of it, in the shapes it should have."""
    try:
        image = EncodedImage(contents)
        assert image.patches(LOCATIONS, 8, (1, 3)).shape == (5, 8, 8, 2 * image.channels)
        size = tuple(min(5, side) for side in image.shape[:2])
        assert image.thumbnail(size).shape == (*size, image.channels)
    except UnreadableImage:
        return False
    return True


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of damaged EXIF.
@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG"])
def test_broken_files(rng, kind, count):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = smooth(rng, 72, 96)
    options = {} if kind == "PNG" else {"progressive": kind == "progressive"}
    contents = encoded(pixels, "PNG" if kind == "PNG" else "JPEG", exif=exif, **options)
    assert assert_readable_or_refused(contents)
    read = [assert_readable_or_refused(broken(rng, contents)) for _ in range(count)]
    assert 0 < sum(read) < count or kind == "PNG"  # Of a PNG, checksums find all.


# ---- What is decoded whole ----


def test_what_is_decoded_whole_is_kept_within_bounds(rng, tmp_path, monkeypatch):
    kept = Decoded(3 * 40 * 50)
    monkeypatch.setattr("keras_glimpse.sources.encoded.decoded", kept)
    monkeypatch.setattr("keras_glimpse.sources.encoded.SMALL", 2**20)
    paths = [tmp_path / f"{n}.jpg" for n in range(5)]
    for path in paths:
        path.write_bytes(encoded(smooth(rng, 40, 50)[..., 0]))
    images = [EncodedImage(path) for path in paths]
    for image in images:
        assert not image.reads_parts and image.thumbnail((4, 5)).shape == (4, 5, 1)
    read = [image.bytes_read for image in images]
    for image in images:
        image.patches([[0.5, 0.5]], 8)
    again = [image.bytes_read > before for image, before in zip(images, read)]
    assert again == [True] * 5  # Each was given up for the next ones.
    assert EncodedImage(paths[-1]).thumbnail((4, 5)).shape == (4, 5, 1) and len(kept._images) == 3
    last = EncodedImage(paths[-1])
    last.thumbnail((4, 5))
    assert last.bytes_read == 0  # Whoever opens the file again.
    paths[-1].write_bytes(encoded(smooth(rng, 30, 50)[..., 0]))
    assert EncodedImage(paths[-1]).shape == (30, 50, 1)


def test_what_is_decoded_twice_is_counted_once():
    kept, pixels = Decoded(10), np.zeros(4, np.uint8)
    for _ in range(3):
        kept.keep("a", pixels)
    kept.keep("b", pixels)
    assert kept.get("a") is pixels and kept.get("b") is pixels
