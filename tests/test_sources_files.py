"""Slides, maps and arrays in files, read in parts: they show what `MultiScaleCrop` and `downsample` make of all pixels."""

import gc
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from files.pyramid import make_pyramid

from keras_glimpse import MultiScaleCrop
from keras_glimpse.ops.thumbnail import downsample
from keras_glimpse.sources.arrays import ArrayImage
from keras_glimpse.sources.image import UnreadableImage
from keras_glimpse.sources.maps import MapImage
from keras_glimpse.sources.slides import SlideImage

HEIGHT, WIDTH, SIZE = 512, 768, 12


def means(image, count=3):
    """The image averaged 2 by 2 again and again."""
    levels = []
    for _ in range(count):
        height, width, channels = image.shape
        image = image.reshape(height // 2, 2, width // 2, 2, channels).mean((1, 3)).astype(image.dtype)
        levels.append(image)
    return levels


def slide_file(path, image, **options):
    pyvips = pytest.importorskip("pyvips")
    options = {"compression": "deflate", "tile_width": 128, "tile_height": 128} | options
    pyvips.Image.new_from_array(image).tiffsave(str(path), tile=True, pyramid=True, **options)
    return path


def aperio_file(path, image, tiles=lambda level: level):
    """A TIFF that OpenSlide takes for one of Aperio's, by its description."""
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffWriter(path) as file:
        for level in (image, *means(image)):
            about = {"description": "Aperio Image Library v11\n|AppMag = 20", "metadata": None, "software": None}
            file.write(tiles(level), shape=level.shape, dtype="uint8", tile=(64, 64), photometric="rgb", **about)
    return path


def map_file(path, image, overviews=(2, 4, 8), mask=None, **options):
    rasterio = pytest.importorskip("rasterio")
    height, width, count = image.shape
    options |= {"dtype": str(image.dtype), "tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}
    placed = {"transform": rasterio.Affine(2, 0, 0, 0, -2, 0)}  # Without it rasterio warns.
    with rasterio.open(path, "w", driver="GTiff", height=height, width=width, count=count, **placed, **options) as file:
        file.write(np.moveaxis(image, -1, 0))
        if mask is not None:
            file.write_mask(mask)
    if overviews and max(height, width) > 8:
        with rasterio.open(path, "r+") as file:
            file.build_overviews(list(overviews), rasterio.enums.Resampling.average)
    return path


def slide(folder, image):
    pytest.importorskip("openslide")
    return SlideImage(slide_file(folder / "slide.tif", image))


def aperio(folder, image):
    pytest.importorskip("openslide")
    return SlideImage(aperio_file(folder / "slide.svs", image))


def scene(folder, image):
    return MapImage(map_file(folder / "map.tif", image))


def memory_map(folder, image):
    def mapped(number, level):
        np.save(folder / f"{number}.npy", level)
        return np.load(folder / f"{number}.npy", mmap_mode="r")

    array, *pyramid = (mapped(*each) for each in enumerate((image, *means(image))))
    return ArrayImage(array, pyramid)


def hdf5(folder, image):
    file = pytest.importorskip("h5py").File(folder / "image.h5", "w")
    array, *pyramid = (file.create_dataset(str(len(each)), data=each, chunks=True) for each in (image, *means(image)))
    return ArrayImage(array, pyramid)


def zarr(folder, image):
    group = pytest.importorskip("zarr").open_group(folder / "image.zarr", mode="w")
    levels = (image, *means(image))
    array, *pyramid = (group.create_array(str(len(each)), data=each, chunks=(64, 64, 3)) for each in levels)
    return ArrayImage(array, pyramid)


SOURCES = (slide, aperio, scene, memory_map, hdf5, zarr)
FILES = (slide, aperio, scene)


@pytest.fixture
def image(rng):
    """Noise that three averagings by 2 leave integers."""
    return 64 * rng.integers(0, 4, (HEIGHT, WIDTH, 3), dtype=np.uint8)


SLOPE = (60 / 40 + 60 / 50) / 255  # At most, of the smooth image from one pixel to the next along both axes.


def smooth(height, width):
    ys, xs, channels = np.ogrid[:height, :width, :3]
    return (127 + 60 * np.sin(ys / 40 + channels) + 60 * np.cos(xs / 50)).astype(np.uint8)


def aligned(rng, scale, count=6):
    """Locations whose windows begin at pixels of the level of this scale, some of them outside the image."""
    start = scale * rng.integers(-SIZE // 2, np.array([HEIGHT, WIDTH]) // scale - SIZE // 2, (count, 2))
    return (start + (scale * SIZE - 1) / 2) / (HEIGHT - 1, WIDTH - 1)


def crops(image, locations, scales):
    images = np.broadcast_to(image, (len(locations), *image.shape))
    return MultiScaleCrop(SIZE, scales)(tf.constant(images), tf.constant(locations, tf.float32))


@pytest.mark.parametrize("make", SOURCES)
def test_thumbnails_are_exact(tmp_path, image, make):
    source = make(tmp_path, image)
    assert source.shape == image.shape and source.dtype == np.uint8 and source.bytes_read == 0
    for size in [(64, 96), (128, 192), (32, 12), (300, 400), (1, 1)]:
        np.testing.assert_allclose(source.thumbnail(size), downsample(image[None], size)[0], atol=1e-4)
    assert source.bytes_read > 0


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_aligned_patches_are_exact(tmp_path, image, rng, make, scale):
    source, locations = make(tmp_path, image), aligned(rng, scale)
    np.testing.assert_allclose(source.patches(locations, SIZE, (scale,)), crops(image, locations, (scale,)), atol=2e-3)


@pytest.mark.parametrize("make", SOURCES)
def test_only_what_is_looked_at_is_read(tmp_path, image, make):
    source = make(tmp_path, image)
    source.thumbnail((64, 96))
    assert source.pixels_read == 64 * 96
    source.patches([(0.5, 0.5)], SIZE, (1, 8))
    assert source.pixels_read <= 64 * 96 + 2 * (SIZE + 1) ** 2


@pytest.mark.parametrize("make", SOURCES)
def test_threads(tmp_path, image, rng, make):
    source, locations = make(tmp_path, image), rng.random((64, 1, 2))
    alone = [source.patches(each, SIZE, (1, 4)) for each in locations]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda each: source.patches(each, SIZE, (1, 4)), locations))
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("options", [{"compression": "deflate"}, {"compression": "jpeg", "Q": 90}, None])
def test_smooth_images_of_odd_sides(tmp_path, rng, options):
    """Levels leave out the last row, or have half of one: what is read lies beside its place by less than a pixel of theirs."""
    pytest.importorskip("openslide")
    image = smooth(517, 771)
    path = tmp_path / "image.tif"
    source = SlideImage(slide_file(path, image, **options)) if options else MapImage(map_file(path, image))
    np.testing.assert_allclose(source.thumbnail((40, 40)), downsample(image[None], (40, 40))[0], atol=8 * SLOPE)
    locations = rng.uniform(0.2, 0.8, (20, 2))  # At the border the image ends, in its levels and in crops at other pixels.
    for scale in (1, 2, 5, 8):
        patches = source.patches(locations, SIZE, (scale,))
        np.testing.assert_allclose(patches, crops(image, locations, (scale,)), atol=0.02 + (scale > 1) * scale * SLOPE)


def test_levels_of_slides_are_those_that_openslide_takes(tmp_path, rng):
    openslide = pytest.importorskip("openslide")
    for height, width in [(HEIGHT, WIDTH), (517, 771), (1000, 900)]:
        path = slide_file(tmp_path / "slide.tif", smooth(height, width), tile_width=64, tile_height=64)
        source, by_openslide = SlideImage(path), openslide.OpenSlide(path)
        downsamples = np.array(by_openslide.level_downsamples)
        for factor in np.concatenate([np.exp(rng.uniform(0, 5, 500)), np.arange(1, 33)]):
            if np.abs(factor / downsamples - 1).min() > 0.02 or factor in downsamples:  # Each has its own tolerance, below 2%.
                assert source._level(factor) == by_openslide.get_best_level_for_downsample(factor), factor


def test_levels_of_odd_sides_are_read_to_their_ends(tmp_path):
    """Up to half a pixel of level 0 beside; nothing of what lies outside."""
    pytest.importorskip("openslide")
    source = SlideImage(slide_file(tmp_path / "slide.tif", np.full((517, 771, 3), 90, np.uint8)))
    for level, (height, width) in enumerate(source.levels):
        for top, left in [(0, 0), (height - 5, width - 5), (height - 6, width - 7), (height // 2, width // 3)]:
            assert (np.abs(source.read(level, top, left, 5, 5).astype(int) - 90) <= 1).all(), (level, top, left)


def test_luminance(tmp_path, image):
    pytest.importorskip("openslide")
    source = SlideImage(slide_file(tmp_path / "slide.tif", image), channels=1)
    grey = image @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(source.thumbnail(image.shape[:2])[..., 0], grey, atol=0.6 / 255)
    with pytest.raises(ValueError, match="channels must be 1 or 3; got 4"):
        SlideImage(tmp_path / "slide.tif", channels=4)


def test_what_a_scanner_left_out_is_white(tmp_path, image):
    def without_second(level):
        rows, columns = -(-len(level) // 64), -(-level.shape[1] // 64)
        padded = np.pad(level, ((0, rows * 64 - len(level)), (0, columns * 64 - level.shape[1]), (0, 0)))
        tiles = padded.reshape(rows, 64, columns, 64, 3).swapaxes(1, 2).reshape(-1, 64, 64, 3)
        return iter([tiles[0], None, *tiles[2:]])

    pytest.importorskip("openslide")
    source = SlideImage(aperio_file(tmp_path / "slide.svs", image, without_second))
    image[:64, 64:128] = 255
    np.testing.assert_array_equal(source.read(0, 0, 0, 128, 128), image[:128, :128])


def test_bands(tmp_path, image):
    path = map_file(tmp_path / "map.tif", image)
    np.testing.assert_allclose(MapImage(path, bands=[3, 1]).thumbnail((64, 96)), means(image)[-1][..., [2, 0]] / 255, atol=1e-6)
    for bands in ([], [0], [1, 4]):
        with pytest.raises(UnreadableImage, match="expected bands from 1 to 3"):
            MapImage(path, bands=bands)


@pytest.mark.parametrize(("dtype", "kept"), [("uint16", "uint16"), ("int16", "float32"), ("float32", "float32")])
def test_dtypes_of_maps(tmp_path, rng, dtype, kept):
    factor = 65535 if dtype == "uint16" else 1
    image = rng.integers(-1000 if dtype != "uint16" else 0, 1000, (64, 64, 2)).astype(dtype)
    source = MapImage(map_file(tmp_path / "map.tif", image, overviews=()))
    assert source.dtype == kept
    np.testing.assert_allclose(source.thumbnail((64, 64)), image.astype("float32") / factor, rtol=1e-6)


def test_bands_of_complex_numbers_are_refused(tmp_path):
    map_file(tmp_path / "map.tif", np.zeros((64, 64, 1), "complex64"), overviews=())
    with pytest.raises(UnreadableImage, match="expected bands of integers or floats; got complex64"):
        MapImage(tmp_path / "map.tif")


@pytest.mark.parametrize("nodata", [-9999, float("nan"), None])
def test_masked_pixels_read_0(tmp_path, nodata):
    """At every level; the others of an overview's pixel make it up."""
    image, mask = np.full((256, 256, 1), 7, "float32"), np.full((256, 256), 255, "uint8")
    mask[:64, :66] = 0
    image[:64, :66] = -9999 if nodata is None else nodata
    options = {"mask": mask} if nodata is None else {"nodata": nodata}
    source = MapImage(map_file(tmp_path / "map.tif", image, overviews=(2, 4), **options))
    for size in (256, 128, 64):
        edge = 64 * size // 256
        thumbnail = source.thumbnail((size, size))[..., 0]
        assert (thumbnail[:edge, :edge] == 0).all() and (thumbnail[edge:] == 7).all() and (thumbnail[:, edge + 2 :] == 7).all()


def test_no_program_in_a_file_runs(tmp_path, image, monkeypatch):
    rasterio = pytest.importorskip("rasterio")
    path = map_file(tmp_path / "map.tif", image)
    function = """<VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand"><PixelFunctionLanguage>Python
        </PixelFunctionLanguage><PixelFunctionType>f</PixelFunctionType><PixelFunctionCode>raise</PixelFunctionCode></VRTRasterBand>"""
    virtual = f'<VRTDataset rasterXSize="9" rasterYSize="9">{function}</VRTDataset>'
    (tmp_path / "map.vrt").write_text(virtual)
    for name in (tmp_path / "map.vrt", virtual, f"vrt://{path}"):
        with pytest.raises(UnreadableImage, match="GDAL cannot read it"):
            MapImage(name)
    with rasterio.Env(GDAL_VRT_ENABLE_PYTHON="YES"):
        options = []
        monkeypatch.setattr("rasterio.io.DatasetReader", lambda *_, **__: options.append(rasterio.env.getenv()) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            MapImage(path)
    assert options[0]["GDAL_VRT_ENABLE_PYTHON"] == "NO"


def test_maps_without_a_place_do_not_warn(tmp_path, image):
    pytest.importorskip("rasterio")
    path = slide_file(tmp_path / "slide.tif", image)
    assert MapImage(path).patches([(0.5, 0.5)], SIZE).shape == (1, SIZE, SIZE, 3)  # Any warning is an error.


def open_files(path):
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return sum(os.readlink(link) == str(path) for link in links if os.path.exists(link))


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="Only Linux lists open files there.")
@pytest.mark.parametrize("make", FILES)
def test_files_are_closed_with_their_images(tmp_path, image, make):
    source = make(tmp_path, image)
    source.thumbnail((64, 96))
    assert open_files(source.name) == (4 if make is scene else 0)  # One for each level; OpenSlide opens files to read only.
    path = source.name
    del source
    gc.collect()
    assert open_files(path) == 0


@pytest.mark.parametrize("make", FILES)
def test_files_that_change_or_vanish(tmp_path, image, make):
    for harm in (os.remove, lambda path: os.truncate(path, 1000), os.utime):
        source = make(tmp_path, image)
        source.thumbnail((64, 96))
        harm(source.name)
        for read in (partial(source.thumbnail, (64, 96)), partial(source.patches, [(0.5, 0.5)], SIZE)):
            with pytest.raises(UnreadableImage, match="changed or removed after it had been opened") as error:
                read()
            assert str(error.value).startswith(source.name)


OPENED_BY = {SlideImage: "openslide", MapImage: "rasterio"}


@pytest.mark.parametrize("kind", OPENED_BY)
@pytest.mark.parametrize("content", [b"Not an image.\n" * 100, b"", b"II*\0", None])
def test_what_is_no_image(tmp_path, kind, content):
    pytest.importorskip(OPENED_BY[kind])
    for name in ("image.svs", "image.tif"):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableImage, match=name):
            kind(tmp_path / name)


@pytest.mark.parametrize("kind", OPENED_BY)
def test_what_is_not_installed(monkeypatch, kind):
    monkeypatch.setitem(sys.modules, OPENED_BY[kind], None)
    with pytest.raises(ImportError, match=r"pip install keras-glimpse\[(slides|maps)\]"):
        kind("image.tif")


@pytest.mark.parametrize("make", [slide, scene])
def test_a_level_whose_tiles_are_lost(tmp_path, image, make):
    """The other levels are read, until OpenSlide has met what is lost; then nothing of the slide."""
    tifffile, source = pytest.importorskip("tifffile"), make(tmp_path, image)
    with tifffile.TiffFile(source.name) as file:
        tiles = list(zip(file.pages[0].dataoffsets, file.pages[0].databytecounts))
    with open(source.name, "r+b") as file:
        for start, count in tiles:
            file.seek(start)
            file.write(bytes(count))
    source = type(source)(source.name)
    np.testing.assert_allclose(source.thumbnail((64, 96)), means(image)[-1] / 255, atol=1e-6)
    for _ in range(2):
        with pytest.raises(UnreadableImage, match=r"(slide|map)\.tif: .*(cannot read|IReadBlock failed)"):
            source.patches([(0.5, 0.5)], SIZE)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"TileWidth": 65520, "TileLength": 65520}, "a tile of level 3 has 65520x65520 pixels"),  # Would end the program.
        ({"ImageWidth": 60000}, r"level 3 of \(64, 60000\) pixels is not of an image of \(512, 768\)"),
    ],
)
def test_slides_that_claim_absurd_sizes(tmp_path, image, changed, message):
    tifffile, source = pytest.importorskip("tifffile"), aperio(tmp_path, image)
    with tifffile.TiffFile(source.name, mode="r+b") as file:
        for tag, value in changed.items():
            file.pages[3].tags[tag].overwrite(value, dtype="I")
    with pytest.raises(UnreadableImage, match=message):
        SlideImage(source.name)


@pytest.mark.parametrize("make", [slide, scene])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (100000, 3), (3, 100000)])
def test_extreme_sides(tmp_path, make, height, width):
    image = np.full((height, width, 3), 51, np.uint8)
    source = make(tmp_path, image)
    size = (min(height, 64), min(width, 64))
    np.testing.assert_allclose(source.thumbnail(size), np.full((*size, 3), 0.2), atol=2e-3)
    np.testing.assert_allclose(source.patches([(0.5, 0.5)], 1, (1,)), np.full((1, 1, 1, 3), 0.2), atol=1e-6)


def test_a_pyramid_of_pieces_has_its_objects_where_it_says(tmp_path, rng):
    for library in ("pyvips", "openslide"):
        pytest.importorskip(library)
    path = tmp_path / "pyramid.tif"
    pieces = [np.full((64, 64, 3), grey, np.uint8) for grey in (40, 60)]
    objects = [np.full((*size, 3), 220, np.uint8) for size in ((16, 24), (64, 64))]
    boxes = make_pyramid(path, 700, pieces, objects)
    assert boxes.shape == (2, 4) and make_pyramid(path, 700, pieces, objects).tolist() == boxes.tolist()
    pixels, expected = SlideImage(path).read(0, 0, 0, 700, 700), np.zeros((700, 700), bool)
    for (y1, x1, y2, x2), pasted in zip(boxes, objects):
        assert (y2 - y1, x2 - x1) == pasted.shape[:2]
        expected[y1:y2, x1:x2] = True
    np.testing.assert_array_equal((pixels > 140).all(axis=-1), expected)
    with pytest.raises(ValueError, match="1 whole pieces of 64x64; got 2 objects"):
        make_pyramid(path, 100, pieces, objects)


def broken(data, directories, rng):
    """The file cut short, or with some bytes changed: anywhere, at its beginning, or where its directories are."""
    how, changed = rng.integers(4), bytearray(data)
    if how == 0:
        return bytes(changed[: rng.integers(len(changed))])
    start, length = [(0, len(data)), (0, 512), (directories[rng.integers(len(directories))], 256)][how - 1]
    for place in start + rng.integers(0, length, rng.integers(1, 9)):
        changed[min(place, len(data) - 1)] = rng.integers(256)
    return bytes(changed)


READ_ALL = """
import collections, json, pathlib, resource, sys
from keras_glimpse.sources import maps, slides
from keras_glimpse.sources.image import UnreadableImage

resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
outcomes = collections.Counter()
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    print(path.name, flush=True)
    try:
        source = (maps.MapImage if path.name.startswith("map") else slides.SlideImage)(path)
        source.thumbnail((16, 16))
        source.patches([(0.1, 0.1), (0.5, 0.6), (1.0, 1.0)], 12, (1, 4))
        outcomes["read"] += 1
    except UnreadableImage as error:
        outcomes["unreadable" if path.name in str(error) else f"{path.name}: {error}"] += 1
    except BaseException as error:
        outcomes[f"{path.name}: {type(error).__name__}: {error}"] += 1
print(json.dumps(outcomes))
"""
MEMORY = 12 * 2**30  # Bytes of addresses, with those that TensorFlow takes.


@pytest.mark.slow
@pytest.mark.parametrize("count", [300])
def test_broken_files(tmp_path, image, rng, count):
    """A right answer or UnreadableImage, and no crash: in another process, with a limit on memory."""
    tifffile, folder = pytest.importorskip("tifffile"), tmp_path / "broken"
    folder.mkdir()
    for make in FILES:
        source = make(tmp_path, image)
        with tifffile.TiffFile(source.name) as file:
            directories = [page.offset for page in file.pages]
        data, (stem, ending) = (tmp_path / source.name).read_bytes(), os.path.splitext(os.path.basename(source.name))
        for number in range(count):
            (folder / f"{stem}{number}{ending}").write_bytes(broken(data, directories, rng))
    command = [sys.executable, "-c", READ_ALL, str(folder), str(MEMORY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (done.returncode, lines[-1:], done.stderr[-2000:])
    outcomes = json.loads(lines[-1])
    shutil.rmtree(folder)
    assert set(outcomes) == {"read", "unreadable"} and sum(outcomes.values()) == count * len(FILES), outcomes
