"""The page of recipes/deploy/demo.py: its files, and in a browser that what it shows is what Keras says of the very pixels."""

import base64
import hashlib
import importlib
import itertools
import json
import re
import shutil
import sys
import threading
from contextlib import contextmanager

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_glimpse
from keras_glimpse import GlimpseClassifier, data

THRESHOLDS = (0.6, 0.95)  # The page starts with the second.
NAMES = ("clean", "<b>defective</b>", "a name that is too long for any phone, and more so as it has no end in sight")
PHONE = {"viewport": {"width": 360, "height": 740}}


@pytest.fixture(scope="module")
def demo():
    return importlib.import_module("demo")


@pytest.fixture(scope="module")
def model():
    """Untrained, but so sharp that it is surer of some digits than of others; with this seed they stop at every stage."""
    return sharp((None, 48, 48, 1), seed=58, num_classes=10, hidden_units=50)


@pytest.fixture(scope="module")
def colour():
    """For colour images of any size."""
    return sharp((None, None, None, 3), seed=10, num_classes=3, hidden_units=20, scales=(2, 1), class_names=NAMES)


def sharp(shape, seed, **arguments):
    keras.utils.set_random_seed(seed)
    model = GlimpseClassifier(**arguments)
    model.build(shape)
    for net in (model.low_res_net, *model.glimpse_nets):
        net.set_weights([5 * weights for weights in net.get_weights()])
    return model


def png(image) -> bytes:
    return tf.io.encode_png(image).numpy()


def file(image, name="picture.png") -> dict:
    return {"name": name, "mimeType": "image/png", "buffer": png(image)}


# ---- The files, without a browser ----


@pytest.fixture(scope="module")
def built(demo, tmp_path_factory):
    """A model with `preprocess` and colours, and the page's folder."""
    keras.utils.set_random_seed(0)
    scaled = keras.layers.Rescaling(1 / 127.5, -1)
    model = GlimpseClassifier(3, 1, low_res_size=16, hidden_units=4, preprocess=scaled, class_names=NAMES)
    model.build((None, 36, 50, 3))
    folder = tmp_path_factory.mktemp("demo") / "page"
    picture = folder.parent / "A board.PNG"
    picture.write_bytes(png(np.zeros((5, 5, 3), np.uint8)))
    demo.build(model, folder, None, thresholds=[0.9], examples=[picture])
    return model, folder


def test_what_the_page_is_told(built):
    _, folder = built
    told = json.loads((folder / "about.json").read_text())
    assert told["class_names"] == list(NAMES) and told["scales"] == [1, 2] and told["drawable"] is False
    assert told["image"] == {"height": 36, "width": 50, "channels": 3, "largest": 255}
    assert told["cascades"] == [{"threshold": 0.9, "file": "cascade-0.9.tflite"}]
    assert told["examples"] == [{"name": "A board", "file": "examples/0.png"}] and (folder / "examples/0.png").is_file()
    assert (folder / told["cascades"][0]["file"]).is_file() and not (folder / "litertjs").exists()
    assert told["macs"]["stages"] == keras_glimpse.stage_macs(built[0]).tolist()


def test_the_explaining_file_says_what_keras_sees(built, rng):
    """Where `preprocess` changes the pixels, what was seen is shown in shares of their range."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    model, folder = built
    image = rng.integers(256, size=(1, 36, 50, 3)).astype(np.float32)
    runner = interpreter.Interpreter(str(folder / "explaining.tflite")).get_signature_runner()
    found, expected = runner(images=image), model.look(image)
    np.testing.assert_allclose(found["stage_probabilities"], keras.ops.softmax(expected["logits"]), atol=1e-5)
    np.testing.assert_allclose(found["locations"], expected["locations"], atol=1e-5)
    low, high = image.min() / 127.5 - 1, image.max() / 127.5 - 1
    np.testing.assert_allclose(found["patches"], (expected["patches"] - low) / (high - low), atol=1e-5)
    assert found["thumbnail"].shape == (1, 16, 16, 3)
    np.testing.assert_allclose(found["thumbnail"].mean(), (image.mean() / 127.5 - 1 - low) / (high - low), atol=1e-4)


def test_looking_everywhere_of_convolutions(demo):
    """Counted by hand: valid convolutions of 3x3 on all of 100x76 pixels, the first two halved, and two dense layers."""
    net = keras_glimpse.ConvGlimpseNet(3, 2, filters=(4, 5, 6), pooled=(0, 1), hidden_units=7)
    model = GlimpseClassifier(3, 1, patch_size=24, low_res_size=8, scales=(2, 1), glimpse_net=net)
    model.build((None, 100, 76, 1))
    by_hand = 98 * 74 * 9 * 1 * 4 + 47 * 35 * 9 * 4 * 5 + 21 * 15 * 9 * 5 * 6 + 2 * 6 * 7 + 7 * 3
    assert demo.macs_everywhere(model, (100, 76, 1)) == (by_hand, "the convolutions of one scale over all 100×76 pixels")


@pytest.mark.parametrize(("scales", "tiles", "gated"), [((1, 2), (4, 5), 0), ((2, 4), (2, 3), 1)])
def test_looking_everywhere_of_dense_networks(demo, scales, tiles, gated):
    model = GlimpseClassifier(3, 1, patch_size=12, low_res_size=8, scales=scales, hidden_units=7, gated_glimpse=bool(gated))
    model.build((None, 48, 50, 1))
    each = 12 * 12 * 2 * 7 + 7 * 3 + gated * 2 * 7
    macs, how = demo.macs_everywhere(model, (48, 50, 1))
    assert macs == tiles[0] * tiles[1] * each and how.startswith(f"{tiles[0]}×{tiles[1]} glimpses")


def test_a_network_that_cannot_be_counted_has_no_costs(demo):
    net = keras.Sequential(
        [keras.layers.Lambda(lambda x: tf.numpy_function(np.tanh, [x], tf.float32), output_shape=(12, 12, 2))]
    )
    net.add(keras.layers.Lambda(lambda x: tf.ensure_shape(x, (None, 12, 12, 2)), output_shape=(12, 12, 2)))
    net.add(keras.layers.Flatten())
    net.add(keras.layers.Dense(3))
    model = GlimpseClassifier(3, 1, glimpse_net=net)
    model.build((None, 48, 48, 1))
    assert demo.costs(model, (48, 48, 1)) is None


def test_the_page_asks_nobody_else(demo):
    """Addresses are relative; and the policy has the hash of the import map, or nothing would run."""
    for path in demo.PAGE.iterdir():
        assert not re.search(r"https?://|(src|href|fetch\()\W*/", path.read_text()), path.name
    html = (demo.PAGE / "index.html").read_text()
    (import_map,) = re.findall(r'<script type="importmap">(.*?)</script>', html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(import_map.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in html and "default-src 'none'; connect-src 'self'" in html


@pytest.mark.parametrize(
    ("net", "method"),
    [*itertools.product([keras_glimpse.LowResNet], ["area", "strided", "bilinear"]), (keras_glimpse.ConvLowResNet, "area")],
)
def test_the_thumbnail_is_what_the_network_sees(demo, rng, net, method):
    """Its answer for the thumbnail, as an image of that size, is that for the image."""
    low_res = net(3, (12, 8), downsample=method)
    model = GlimpseClassifier(3, patch_size=6, low_res_net=low_res)
    model.build((None, 50, 37, 3))
    image = rng.random((1, 50, 37, 3), np.float32)
    thumbnail = demo.thumbnail(model, image)
    again = net(3, (12, 8))
    again.build((None, 12, 8, 3))
    again.set_weights(low_res.get_weights())
    np.testing.assert_allclose(again(thumbnail)[1], low_res(image)[1], atol=1e-5)


# ---- What cannot be ----


@pytest.fixture
def refused(demo, monkeypatch):
    def refused(*arguments):
        monkeypatch.setattr(sys, "argv", ["demo", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            demo.main()
        return str(caught.value)

    return refused


def test_bad_models(refused, tmp_path):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "dense.keras")
    (tmp_path / "text.keras").write_text("no model")
    assert "missing.keras does not exist" in refused(tmp_path / "missing.keras")
    assert re.search("Expected a GlimpseClassifier in .*dense.keras; got a Sequential", refused(tmp_path / "dense.keras"))
    assert re.search("demo: .*text.keras", refused(tmp_path / "text.keras"))


def test_bad_options(demo, model, colour, refused, tmp_path, monkeypatch, capsys):
    four, quantized = (GlimpseClassifier(3, hidden_units=8) for _ in range(2))
    four.build((None, 20, 20, 4))
    quantized.build((None, 20, 20, 3))
    quantized.quantize("int8")
    monkeypatch.setattr(demo, "load", {"digits": model, "colour": colour, "four": four, "quantized": quantized}.get)
    assert "Expected a model that was not quantized" in refused("quantized")
    assert "images with one channel or three; got images (20, 20, 4)" in refused("four")
    assert "--size HEIGHT WIDTH is for models of images of any size" in refused("digits", "--size", 20, 20)
    assert "got (None, None, 3)" in refused("colour")
    assert "class_names" in refused("digits", "--class-names", "one", "two")
    assert "Expected a folder with pictures (.bmp .gif" in refused("digits", "--examples", tmp_path)
    assert refused("digits", "--thresholds", 0.5, 1.5) == "2" and "must lie in (0, 1]" in capsys.readouterr().err


def test_a_folder_is_written_whole_or_not_at_all(demo, model, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(FileExistsError, match="Expected a new or an empty folder to write to; got .*mine"):
        demo.build(model, tmp_path / "mine", None)
    with pytest.raises(FileNotFoundError, match="The folder to write to does not exist: .*nowhere"):
        demo.build(model, tmp_path / "nowhere" / "page", None)
    with pytest.raises(ValueError, match="threshold"):
        demo.build(model, tmp_path / "page", None, thresholds=[2.0])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "thesis.txt"]


def test_without_npm(demo, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="there is no npm"):
        demo.litertjs(tmp_path / "litertjs")
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(OSError, match="npm could not install @litertjs/core@.*\nno network"):
        demo.litertjs(tmp_path / "litertjs")
    assert [path.name for path in tmp_path.iterdir()] == ["npm"]


# ---- In a browser ----


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'keras-glimpse[demo]'")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no chromium")
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as driver, driver.chromium.launch(executable_path=chromium, args=camera) as browser:
        yield browser


@pytest.fixture(scope="module")
def site(demo, browser, model, colour, tmp_path_factory):
    """Where two pages are served, each as static files below a path."""
    try:
        packages = demo.litertjs(demo.CACHE)
    except OSError as error:
        pytest.skip(str(error))
    root = tmp_path_factory.mktemp("site")
    (root / "some").mkdir()
    demo.build(model, root / "some" / "digits", packages, thresholds=THRESHOLDS)
    demo.build(colour, root / "some" / "colour", packages, size=(40, 56), thresholds=[0.9])
    with demo.server(root) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/some"
        server.shutdown()
        thread.join()


@contextmanager
def opened(browser, address, **screen):
    """A page that has no errors, and asks for nothing from anywhere else."""
    page = browser.new_page(**PHONE | screen)
    asked, errors = [], []
    page.on("request", lambda request: asked.append((request.method, request.url)))
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(address)
    ready(page)
    yield page
    assert errors == [] and page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert all(method == "GET" and url.startswith((address, "data:", "blob:")) for method, url in asked)
    page.close()


@pytest.fixture(scope="module")
def digits(browser, site):
    with opened(browser, f"{site}/digits/") as page:
        yield page


@pytest.fixture(scope="module")
def photos(browser, site):
    with opened(browser, f"{site}/colour/") as page:
        yield page


def ready(page):
    page.wait_for_selector("main[aria-busy=false]", timeout=30_000)


def draw(page, digit, corner):
    """Draws a 28x28 digit with its corner there: a stroke for every bright run in every other row, for the pen covers two."""
    page.click("#clear")
    page.locator("#canvas").scroll_into_view_if_needed()
    box = page.locator("#canvas").bounding_box()
    to_screen = lambda x, y: (box["x"] + (corner[0] + x) * box["width"] / 48, box["y"] + (corner[1] + y) * box["height"] / 48)  # noqa: E731
    for y in range(0, 28, 2):
        for bright, run in itertools.groupby(range(28), key=lambda x, row=digit[y]: row[x] > 128):
            if bright:
                first, *_, last = [*run] * 2
                page.mouse.move(*to_screen(first + 1, y + 1))
                page.mouse.down()
                page.mouse.move(*to_screen(last, y + 1))
                page.mouse.up()
    ready(page)


def give(page, image):
    page.locator("#file").set_input_files(file(image))
    ready(page)


def on_canvas(page):
    """`[1, height, width, 3]`, bytes."""
    height, width, pixels = page.eval_on_selector(
        "#canvas", "c => [c.height, c.width, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]"
    )
    return np.reshape(pixels, (1, height, width, 4))[..., :3].astype(np.uint8)


def meters(page):
    return np.array(
        page.eval_on_selector_all(
            ".stage", "all => all.map(stage => [...stage.querySelectorAll('[role=meter]')].map(meter => +meter.ariaValueNow))"
        )
    )


def values(page):
    return page.eval_on_selector_all("[role=meter]", "all => all.map(meter => meter.ariaValueNow)")


def stops(page):
    return np.flatnonzero(page.eval_on_selector_all(".stage", "all => all.map(stage => stage.classList.contains('stopped'))"))


def frames(page):
    """`[n, 4]`: x, y, width and height, in percent of the picture."""
    return np.array(
        page.eval_on_selector_all(
            ".frame", "all => all.map(({style: {left, top, width, height}}) => [left, top, width, height].map(parseFloat))"
        )
    )


def pictures(page, size):
    """What was seen, `[n, size, size, 3]` in [0, 1]."""
    seen = page.eval_on_selector_all(
        ".stage canvas", "all => all.map(c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])"
    )
    return np.reshape(seen, (-1, size, size, 4))[..., :3] / 255


def looked(model, image):
    seen = {name: np.asarray(values)[0] for name, values in model.look(image).items()}
    return seen | {"probabilities": keras.ops.softmax(seen["logits"])}


@pytest.mark.slow
def test_a_drawing_is_shown_as_keras_sees_it(digits, model):
    images, seen = data.embedded_digits().test_images[..., 0], set()
    for index, threshold in itertools.product((0, 2), THRESHOLDS):
        if threshold == THRESHOLDS[0]:
            draw(digits, images[index], corner=(6 + 4 * index, 12 - 2 * index))
        digits.locator("#threshold").select_option(f"{round(100 * threshold)} %")
        ready(digits)
        image = on_canvas(digits)[..., :1]
        assert 0.02 < image.mean() / 255 < 0.2

        by_keras, expected = looked(model, image), keras_glimpse.cascade_predict(model, image, threshold)
        np.testing.assert_allclose(meters(digits), by_keras["probabilities"], atol=1e-4)
        assert stops(digits) == expected.exit_stage
        assert digits.inner_text("#answer") == str(expected.probabilities[0].argmax())
        everywhere = 16 * (12 * 12 * 2 * 50 + 50 * 10)
        share = f"{100 * expected.macs[0] / everywhere:.2g} % of looking everywhere"
        assert f"{expected.macs[0]:,} multiply–accumulates: {share}" in digits.inner_text("#spent")
        assert f"{everywhere:,}" in digits.inner_text("#costs")
        seen.add(int(stops(digits)[0]))

        found = frames(digits).reshape(2, 2, 4)[::-1] * 48 / 100  # The first glimpse lies on top.
        np.testing.assert_allclose(found[..., 2:], [[[12, 12], [24, 24]]] * 2)
        centres = found[..., :2] + found[..., 2:] / 2 - 0.5  # In pixels, whose centres are whole numbers.
        np.testing.assert_allclose(centres, by_keras["locations"][:, None, ::-1].repeat(2, axis=1) * 47, atol=1e-2)
        assert digits.locator(".number").all_inner_texts() == ["2", "1"]
        thumbnail = (image / 255).reshape(12, 4, 12, 4).mean(axis=(1, 3))
        patches = by_keras["patches"].transpose(0, 3, 1, 2).reshape(-1, 12, 12)
        np.testing.assert_allclose(pictures(digits, 12)[..., 0], [thumbnail, *patches], atol=1 / 255)
    assert seen == {0, 1, 2}


@pytest.mark.slow
def test_an_empty_canvas_says_nothing(digits):
    draw(digits, data.embedded_digits().test_images[0, ..., 0], corner=(10, 10))
    assert digits.inner_text("#answer").isdigit()
    digits.click("#clear")
    ready(digits)
    assert digits.inner_text("#answer") == "" and "draw here" in digits.inner_text("#what")
    assert not len(meters(digits)) and not on_canvas(digits).any()


@pytest.mark.slow
def test_a_photograph_of_the_models_size_is_taken_as_it_is(photos, colour, rng):
    """For a model of colour images of any size, whose patches are coarse first."""
    exits = set()
    for dark in (1, 4, 8):
        image = rng.integers(256 // dark, size=(40, 56, 3)).astype(np.uint8)
        give(photos, image)
        np.testing.assert_array_equal(on_canvas(photos), image[None])
        by_keras, expected = looked(colour, image[None]), keras_glimpse.cascade_predict(colour, image[None], 0.9)
        np.testing.assert_allclose(meters(photos), by_keras["probabilities"], atol=1e-4)
        assert stops(photos) == expected.exit_stage
        assert photos.inner_text("#answer") == NAMES[expected.probabilities[0].argmax()]
        patches = by_keras["patches"].reshape(2, 12, 12, 2, 3).transpose(0, 3, 1, 2, 4).reshape(-1, 12, 12, 3)
        np.testing.assert_allclose(pictures(photos, 12)[1:], patches, atol=1 / 255)
        exits.add(int(stops(photos)[0]))
    assert len(exits) > 1
    assert photos.locator("#answer b").count() == 0  # Names are text, whatever is in them.


@pytest.mark.slow
def test_other_photographs_are_made_to_fit(photos):
    """100x200 pixels, left red and right blue: all of it in 28x56 of the 40x56, or its middle."""
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, :100, 0] = image[:, 100:, 2] = 255
    give(photos, image)
    padded = on_canvas(photos)[0]
    assert not padded[:5].any() and not padded[-5:].any() and padded[7:-7].any(axis=-1).all()
    photos.locator("#fit").select_option("crop")
    ready(photos)
    cropped = on_canvas(photos)[0]
    photos.locator("#fit").select_option("pad")
    ready(photos)
    for fitted in (padded[7:-7], cropped):
        assert (fitted[:, :26] == (255, 0, 0)).all() and (fitted[:, 30:] == (0, 0, 255)).all()


@pytest.mark.slow
def test_grey_and_inverted(digits, rng):
    image = rng.integers(256, size=(48, 48, 3)).astype(np.uint8)
    give(digits, image)
    grey = image @ (0.299, 0.587, 0.114)
    np.testing.assert_allclose(on_canvas(digits)[0], grey[..., None].repeat(3, axis=-1), atol=0.51)
    digits.check("#invert")
    give(digits, np.full((24, 48, 3), 255, np.uint8))
    assert not on_canvas(digits).any()  # White paper is black then, and so are bars.
    digits.uncheck("#invert")
    ready(digits)


@pytest.mark.slow
@pytest.mark.parametrize(
    "event",
    ["new ClipboardEvent('paste', {clipboardData: files})", "new DragEvent('drop', {dataTransfer: files, cancelable: true})"],
)
def test_pasted_and_dropped(photos, rng, event):
    image = rng.integers(256, size=(40, 56, 3)).astype(np.uint8)
    photos.evaluate(
        f"""bytes => {{
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(bytes)], "a.png", {{type: "image/png"}}));
            dispatchEvent({event});
        }}""",
        list(png(image)),
    )
    ready(photos)
    np.testing.assert_array_equal(on_canvas(photos), image[None])


@pytest.mark.slow
def test_no_picture(photos, rng):
    give(photos, rng.integers(256, size=(40, 56, 3)).astype(np.uint8))
    photos.locator("#file").set_input_files({"name": "thesis.pdf", "mimeType": "application/pdf", "buffer": b"%PDF"})
    ready(photos)
    assert photos.inner_text("#what").startswith("thesis.pdf is no picture that this browser can show.")
    assert photos.inner_text("#answer") == "" and photos.locator(".stage").count() == 0


@pytest.mark.slow
def test_the_camera_is_on_only_while_one_looks_through_it(photos):
    photos.evaluate("""() => {
        const media = navigator.mediaDevices, open = media.getUserMedia.bind(media);
        media.getUserMedia = async wanted => { window.stream = await open(wanted); return window.stream; };
    }""")
    states = lambda: photos.evaluate("window.stream.getTracks().map(track => track.readyState)")  # noqa: E731
    photos.click("#clear")
    ready(photos)
    for button, shown in (("Cancel", False), ("Take the picture", True)):
        photos.get_by_role("button", name="Use the camera").click()
        photos.get_by_role("button", name=button).wait_for()
        assert states() == ["live"]
        photos.get_by_role("button", name=button).click()
        ready(photos)
        assert states() == ["ended"] and not photos.locator("#viewfinder").is_visible()
        assert on_canvas(photos).any() == shown == (photos.locator(".stage").count() > 0)
    photos.get_by_role("button", name="Use the camera").click()
    photos.get_by_role("button", name="Cancel").wait_for()
    photos.keyboard.press("Escape")
    ready(photos)
    assert states() == ["ended"]
    photos.evaluate("() => { navigator.mediaDevices.getUserMedia = async () => { throw new Error('not allowed'); }; }")
    photos.get_by_role("button", name="Use the camera").click()
    ready(photos)
    assert photos.inner_text("#what") == "The camera cannot be used. (not allowed)"


@pytest.mark.slow
def test_by_keyboard_alone(digits):
    digits.click("#clear")
    ready(digits)
    digits.evaluate("document.body.tabIndex = -1, document.body.focus()")  # From where a page that was opened begins.
    reached = []
    while len(reached) < 40:
        digits.keyboard.press("Tab")
        reached.append(digits.evaluate("(document.activeElement.id || document.activeElement.ariaLabel || 'example')"))
        if reached[-1] == "example" and digits.inner_text("#answer") == "":
            digits.keyboard.press("Enter")
            ready(digits)
            assert digits.inner_text("#answer").isdigit()
        if reached[-1] == "threshold":
            before = digits.input_value("#threshold")
            digits.keyboard.press("ArrowUp")
            ready(digits)
            assert {before, digits.input_value("#threshold")} == {"60 %", "95 %"}
            break
    assert {"file", "camera", "clear", "example", "fit", "invert", "threshold"} <= {*reached}
    digits.locator("#file").focus()
    with digits.expect_file_chooser():
        digits.keyboard.press("Space")
    outline = digits.eval_on_selector(".button:focus-within", "label => getComputedStyle(label).outlineStyle")
    assert outline == "solid"


@pytest.mark.slow
def test_what_a_screen_reader_is_told(digits):
    """Every control and picture has a name, what changes is announced, and headings have an order."""
    digits.locator("#examples button").first.click()
    ready(digits)
    tree = digits.locator("body").aria_snapshot()
    named = re.findall(r"- (button|img|combobox|checkbox|meter|article|heading|region|group)\b(.*)", tree)
    assert {kind for kind, _ in named} >= {"button", "img", "combobox", "checkbox", "meter", "heading", "region", "group"}
    assert all(re.fullmatch(r"[01]\.\d+", value) for value in values(digits))  # A number, and none like 1e-8.
    assert [(kind, rest) for kind, rest in named if kind != "article" and not re.match(r' "[^"]+"', rest)] == []
    assert re.search(r'img "The picture\.', tree) and re.search(r'img "Glimpse 1, 12 px wide"', tree)
    status = digits.get_by_role("status")
    assert "% sure" in status.inner_text() and digits.inner_text("#answer") in status.inner_text()
    assert digits.locator("html").get_attribute("lang") == "en" and digits.locator("h1").count() == 1


@pytest.mark.slow
def test_screenshots_and_times(browser, site, tmp_path, monkeypatch):
    screenshots = importlib.import_module("screenshots")
    monkeypatch.setattr(screenshots, "TIMES", 2)
    screenshots.picture(browser, f"{site}/digits/", 1, screenshots.PHONE, tmp_path / "page.png")
    assert tf.io.decode_png((tmp_path / "page.png").read_bytes()).shape[1] == 720  # Two for each of 360 pixels.
    rows = screenshots.measure(browser, f"{site}/digits/", 3)
    assert sum(row["runs"] for row in rows) == 6 and {row["glimpses"] for row in rows} <= {0, 1, 2}
    assert all(0 <= row["fastest_cascade_ms"] <= row["cascade_ms"] <= row["shown_ms"] for row in rows)
