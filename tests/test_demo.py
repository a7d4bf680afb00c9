"""The page of recipes/deploy/demo.py, in a browser: what it shows is what Keras says of the very pixels that were drawn."""

import importlib
import itertools
import shutil
import sys
import threading
import urllib.error
import urllib.request

import keras
import numpy as np
import pytest

import keras_glimpse
from keras_glimpse import data

THRESHOLDS = (0.95, 0.6)  # The first is where the slider stands at the start.


@pytest.fixture(scope="module")
def demo():
    return importlib.import_module("demo")


@pytest.fixture(scope="module")
def model():
    """Untrained, but so sharp that it is surer of some digits than of others; with this seed they stop at every stage."""
    keras.utils.set_random_seed(58)
    model = keras_glimpse.GlimpseClassifier(10, 2, hidden_units=50)
    model.build((None, 48, 48, 1))
    for net in (model.low_res_net, *model.glimpse_nets):
        net.set_weights([5 * weights for weights in net.get_weights()])
    return model


@pytest.fixture(scope="module")
def address(demo, model):
    """Where the demo is served."""
    with demo.server(model, demo.CACHE / demo.PACKAGES) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def page(demo, address):
    """The page in a browser as wide as a phone, and no request to anywhere else."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'keras-glimpse[demo]'")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no chromium")
    try:
        demo.litertjs(demo.CACHE)
    except OSError as error:
        pytest.skip(str(error))
    with playwright.sync_playwright() as driver, driver.chromium.launch(executable_path=chromium) as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        asked, errors = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(address)
        ready(page)
        yield page
        assert errors == [] and all(url.startswith((address, "data:")) for url in asked)


def ready(page):
    page.wait_for_selector("main[aria-busy=false]", timeout=30_000)


def draw(page, digit, corner):
    """Draws a 28x28 digit with its corner there: a stroke for every bright run in every other row, for the pen covers two."""
    page.click("#clear")
    box = page.locator("#board").bounding_box()
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


def shown(page):
    """The pixels of the canvas, and what the page makes of them."""
    pixels = page.evaluate("[...document.querySelector('#board').getContext('2d').getImageData(0, 0, 48, 48).data]")
    meters = page.eval_on_selector_all(
        ".stage",
        """stages => stages.map(stage =>
        [...stage.querySelectorAll('[role=meter]')].map(meter => +meter.ariaValueNow))""",
    )
    stops = page.eval_on_selector_all(".stage", "stages => stages.map(stage => stage.classList.contains('stopped'))")
    frames = page.eval_on_selector_all(
        ".board rect",
        """frames => frames.map(frame =>
        ['x', 'y', 'width', 'height'].map(name => +frame.getAttribute(name)))""",
    )
    pictures = page.eval_on_selector_all(
        ".stage canvas",
        """pictures => pictures.map(picture =>
        [...picture.getContext('2d').getImageData(0, 0, 12, 12).data])""",
    )
    image = np.reshape(pixels, (1, 48, 48, 4))[..., :1].astype(np.float32) / 255
    pictures = np.reshape(pictures, (-1, 12, 12, 4))[..., 0] / 255
    return image, np.array(meters), np.flatnonzero(stops), np.array(frames), pictures


@pytest.mark.slow
def test_the_page_shows_what_keras_says(page, model):
    digits = data.embedded_digits().test_images[..., 0]
    seen = set()
    for index, threshold in itertools.product((0, 2), THRESHOLDS):
        if threshold == THRESHOLDS[0]:
            draw(page, digits[index], corner=(6 + 4 * index, 12 - 2 * index))
        page.locator("#threshold").fill(str(threshold))
        ready(page)
        image, probabilities, stop, frames, pictures = shown(page)
        assert 0.02 < image.mean() < 0.2

        looked = {name: np.asarray(values)[0] for name, values in model.look(image).items()}
        np.testing.assert_allclose(probabilities, keras.ops.softmax(looked["logits"]), atol=1e-4)
        expected = keras_glimpse.cascade_predict(model, image, threshold)
        assert stop == expected.exit_stage
        assert page.inner_text(".answer strong") == str(expected.probabilities[0].argmax())
        assert f"{expected.macs[0]:,} multiply" in page.inner_text("#cost")
        seen.add(int(stop[0]))

        np.testing.assert_allclose(frames[:, 2], [12, 24, 12, 24])
        centres = frames[:, :2] + frames[:, 2:] / 2 - 0.5  # In pixels, whose centres are whole numbers.
        np.testing.assert_allclose(centres, np.repeat(looked["locations"][:, ::-1] * 47, 2, axis=0), atol=1e-3)
        thumbnail = image.reshape(12, 4, 12, 4).mean(axis=(1, 3))
        patches = looked["patches"].transpose(0, 3, 1, 2).reshape(-1, 12, 12)
        np.testing.assert_allclose(pictures, [thumbnail, *patches], atol=1 / 255)
    assert seen == {0, 1, 2}
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.slow
def test_an_empty_canvas_says_nothing(page):
    draw(page, data.embedded_digits().test_images[0, ..., 0], corner=(10, 10))
    assert page.inner_text(".answer strong").isdigit()
    page.click("#clear")
    ready(page)
    assert page.inner_text(".answer strong") == "" and "Draw a digit" in page.inner_text("#what")
    assert not shown(page)[1].any()


@pytest.mark.parametrize("query", ["", "?threshold=1.5", "?threshold=x"])
def test_bad_thresholds(address, query):
    with pytest.raises(urllib.error.HTTPError, match="400") as caught:
        urllib.request.urlopen(f"{address}/cascade.tflite{query}")
    caught.value.close()


def test_bad_models(demo, tmp_path, monkeypatch):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "dense.keras")
    colour = keras_glimpse.GlimpseClassifier(3, low_res_size=4, patch_size=4)
    colour.build((None, 20, 20, 3))
    colour.save(tmp_path / "colour.keras")
    (tmp_path / "text.keras").write_text("no model")
    messages = {
        "missing.keras": "missing.keras does not exist",
        "dense.keras": "Expected a GlimpseClassifier in .*dense.keras; got a Sequential",
        "colour.keras": r"Expected a model of images with one channel, .*; got images \(20, 20, 3\)",
        "text.keras": "demo: .*text.keras",
    }
    for name, message in messages.items():
        monkeypatch.setattr(sys, "argv", ["demo", str(tmp_path / name)])
        with pytest.raises(SystemExit, match=message):
            demo.main()


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


@pytest.mark.parametrize("method", ["area", "strided", "bilinear"])
def test_the_thumbnail_is_what_the_network_sees(demo, rng, method):
    """Its answer for the thumbnail, as an image of that size, is that for the image."""
    model = keras_glimpse.GlimpseClassifier(3, low_res_size=(12, 7), patch_size=6, downsample=method)
    model.build((None, 50, 37, 1))
    image = rng.random((1, 50, 37, 1), np.float32)
    thumbnail = demo.thumbnail(model, image)
    again = keras_glimpse.LowResNet(3, (12, 7))
    again.build((None, 12, 7, 1))
    again.set_weights(model.low_res_net.get_weights())
    np.testing.assert_allclose(again(thumbnail)[1], model.low_res_net(image)[1], atol=1e-5)
