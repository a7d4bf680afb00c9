"""Pictures of where a model looks, against what is known without them: pixels of the image, and places given by the test."""

import keras
import numpy as np
import pytest
from keras import ops
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from keras_glimpse import ConvLowResNet, GlimpseClassifier, LocationMap, draw_glimpses, draw_map


class Given(keras.layers.Layer):
    """A location head that looks at a given place, whatever its map says."""

    def __init__(self, place, cell=(0, 0), **kwargs):
        super().__init__(**kwargs)
        self.place, self.cell = place, cell

    def log_probabilities(self, hidden, logits):
        rows, columns = hidden.shape[1:3]
        peak = np.full((rows, columns), -5.0, np.float32)
        peak[self.cell] = 0.0
        return ops.tile(ops.log_softmax(peak, axis=(0, 1))[None], (ops.shape(hidden)[0], 1, 1))

    def call(self, hidden, logits):
        return ops.tile(ops.convert_to_tensor([self.place], "float32"), (ops.shape(hidden)[0], 1))

    def get_config(self):
        return super().get_config() | {"place": self.place, "cell": self.cell}


def rendered(figure, dpi=120):
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).astype(int)


def corners(axes):
    """`[y1, x1, y2, x2]` of each frame."""
    boxes = [patch.get_bbox() for patch in axes.patches]
    return np.array([[box.y0, box.x0, box.y1, box.x1] for box in boxes])


def map_model(**kwargs):
    arguments = {"num_classes": 3, "low_res_net": ConvLowResNet(3, 16, (4, 4)), "location_head": LocationMap(), "patch_size": 6}
    return GlimpseClassifier(**arguments | {"hidden_units": 8} | kwargs)


def as_in_the_paper(model, images, labels):
    """The picture that version 0.1 drew."""
    figure = Figure(figsize=(1.6 * 4, 1.85 * len(images)), layout="constrained")
    shown = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
    for image, label, row in zip(images, labels, figure.subplots(len(images), 4)):
        logits, locations, patches = (model.look(image[None])[name][0] for name in ("logits", "locations", "patches"))
        thumbnail = image.reshape(5, 4, 6, 4).mean(axis=(1, 3))
        titles = [
            f"{what}: {np.argmax(o)} ({np.max(keras.ops.softmax(o)):.0%})"
            for what, o in zip(("thumbnail", "glimpse 1", "glimpse 2"), logits)
        ]
        colours = ["black", *("tab:green" if np.argmax(o) == label else "tab:red" for o in logits)]
        pixels = [image, thumbnail, *patches[..., :1]]
        for axes, values, title, colour in zip(row, pixels, [f"label {label}", *titles], colours):
            axes.imshow(np.squeeze(values), **shown)
            axes.set_title(title, fontsize=8, color=colour)
            axes.set(xticks=[], yticks=[])
        for (y, x), axes, colour in zip(locations * [19, 23], row[2:], ("tab:red", "tab:cyan")):
            for side, style in ((6, "solid"), (12, "dashed")):
                corner = (x - side / 2, y - side / 2)
                frame = Rectangle(corner, side, side, fill=False, color=colour, linestyle=style, linewidth=1.2)
                row[0].add_patch(frame)
            for spine in axes.spines.values():
                spine.set(color=colour, linewidth=2)
    return figure


def test_small_images_look_as_they_did(make_model, batch):
    model = make_model(low_res_size=(5, 6))
    images, labels = batch[0][:3], batch[1][:3]
    before, now = (rendered(draw(model, images, labels)) for draw in (as_in_the_paper, draw_glimpses))
    assert before.shape == now.shape and np.abs(before - now).max() <= 1  # A thumbnail's mean may round otherwise.


def test_small_images(make_model, batch, tmp_path):
    model = make_model(image_shape=(20, 24, 3))
    images = np.repeat(batch[0][:5], 3, axis=-1)
    figure = draw_glimpses(model, images, batch[1][:5], tmp_path / "glimpses.png", class_names=["a", "b", "c"])
    assert len(figure.axes) == 5 * 4 and (tmp_path / "glimpses.png").read_bytes().startswith(b"\x89PNG")
    frames = [patch.get_bbox() for patch in figure.axes[0].patches]
    y, x = model.look(images)["locations"][0, 0].numpy() * [19, 23]
    np.testing.assert_allclose([(frames[0].y0 + frames[0].y1) / 2, (frames[0].x0 + frames[0].x1) / 2], [y, x], atol=1e-4)
    np.testing.assert_allclose([frame.width for frame in frames[:2]], [6, 12])
    with pytest.raises(ValueError, match="1 or 3 channels"):
        draw_glimpses(make_model(image_shape=(20, 24, 2)), np.zeros((1, 20, 24, 2), np.float32))
    with pytest.raises(ValueError, match=r"Labels must lie in \[0, 3\); got -1 to 1"):
        draw_glimpses(model, images[:2], np.array([1, -1]))
    with pytest.raises(ValueError, match="a name for each of 3 classes; got 2"):
        draw_glimpses(model, images[:2], class_names=["a", "b"])


def test_images_are_drawn_as_the_networks_see_them():
    """In the middle of an image that `preprocess` scales to [-1, 1] and crops, so that places are those of what is left."""
    layers = [keras.layers.Rescaling(1 / 127.5, -1), keras.layers.CenterCrop(20, 24)]
    head = {"location_head": Given((0.5, 0.5)), "low_res_size": 4, "low_res_net": None}
    model = map_model(num_glimpses=1, scales=(1,), preprocess=keras.Sequential(layers), **head)
    image = np.random.default_rng(0).integers(50, 200, (40, 48), "uint8")
    draw = lambda **boxes: draw_glimpses(model, image[None, ..., None], **boxes)  # noqa: E731
    whole, thumbnail, glimpse = draw().axes
    seen = image[10:30, 12:36] / 127.5 - 1
    seen = (seen - seen.min()) / (1 - seen.min())  # No pixel is over 1.
    np.testing.assert_allclose(whole.images[0].get_array(), seen, atol=1e-5)
    np.testing.assert_allclose(thumbnail.images[0].get_array(), seen.reshape(4, 5, 4, 6).mean(axis=(1, 3)), atol=1e-5)
    np.testing.assert_allclose(glimpse.images[0].get_array(), seen[7:13, 9:15], atol=1e-5)
    np.testing.assert_allclose(corners(whole), [[6.5, 8.5, 12.5, 14.5]])
    with pytest.raises(ValueError, match="no boxes, since preprocess changes images of 40x48 pixels to 20x24"):
        draw(boxes=[[1, 1, 4, 4]])


def test_large_images():
    """A glimpse of a ramp tells where it is: every pixel of a panel is as bright as the place that it is drawn at."""
    height, width, place = 100, 200, (0.3, 0.6)
    ramp = np.tile(np.linspace(0, 1, width, dtype=np.float32)[:, None], (2, height, 1, 1))
    model = map_model(num_glimpses=1, scales=(2, 1), location_head=Given(place))
    figure = draw_glimpses(model, ramp)
    assert len(figure.axes) == 2 * 4  # The image, its thumbnail and two patches.
    whole, _, fine, coarse = figure.axes[4:]
    centre = np.array(place * 2) * [99, 199, 99, 199]
    expected = [centre + np.array([-1, -1, 1, 1]) * side / 2 for side in (12, 6)]  # As the scales, 2 and 1.
    np.testing.assert_allclose(corners(whole), expected, atol=1e-4)
    np.testing.assert_allclose(corners(coarse), expected, atol=1e-4)
    for panel, side in ((fine, 6), (coarse, 12)):
        (left, right), (bottom, top) = panel.get_xlim(), panel.get_ylim()
        np.testing.assert_allclose([top, left, bottom, right], expected[side == 6], atol=1e-4)
        columns = left + (np.arange(6) + 0.5) / 6 * (right - left)
        np.testing.assert_allclose(panel.images[0].get_array()[0], columns / (width - 1), atol=1e-5)
    assert [text.get_text() for text in whole.texts] == ["1"]
    rendered(figure)
    sizes = [axes.get_window_extent().height for axes in (whole, fine)]
    assert sizes[0] > 2 * sizes[1]


@pytest.mark.parametrize("side, enlarged", [(48, False), (49, True)])
def test_when_images_are_large(side, enlarged):
    figure = draw_glimpses(map_model(num_glimpses=1), np.zeros((1, side, side, 1), np.float32))
    assert len(figure.axes) == 3 + enlarged and len(figure.axes[0].texts) == enlarged


def test_the_thumbnail_of_a_convolutional_network(rng):
    image = rng.random((1, 32, 64, 3), dtype=np.float32)
    model = map_model(low_res_net=ConvLowResNet(3, (8, 16), (4, 4)))
    expected = image[0].reshape(8, 4, 16, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(draw_glimpses(model, image).axes[1].images[0].get_array(), expected, atol=1e-5)


def test_the_map_is_brightest_where_it_is_most_probable(tmp_path):
    model = map_model(num_glimpses=1, location_head=Given((0.9, 0.1), cell=(1, 2)), low_res_net=ConvLowResNet(3, 32, (4, 4)))
    figure = draw_map(model, np.zeros((1, 120, 200, 1), np.uint8), tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = figure.axes
    (circle,) = axes.lines
    np.testing.assert_allclose(circle.get_xydata(), [[0.1 * 199, 0.9 * 119]], atol=1e-4)
    circle.remove()
    pixels, box = rendered(figure)[::-1].sum(axis=-1), axes.get_window_extent().padded(-2)
    left, bottom = int(box.x0), int(box.y0)
    inside = pixels[bottom : int(box.y1), left : int(box.x1)]
    rows, columns = np.nonzero(inside == inside.max())
    x, y = axes.transData.inverted().transform([left + columns.mean() + 0.5, bottom + rows.mean() + 0.5])
    np.testing.assert_allclose([y, x], [1.5 / 8 * 119, 2.5 / 8 * 199], atol=2)


def test_one_map_for_each_glimpse(rng):
    """Each is a distribution, and what a glimpse saw is not probable before the next."""
    images, cells = rng.random((2, 60, 60, 1), dtype=np.float32), 4
    model = map_model(num_glimpses=3, location_head=LocationMap(inhibition=0.3))
    figure = draw_map(model, images)
    assert len(figure.axes) == 2 * 3
    maps = np.array([axes.images[1].get_array() for axes in figure.axes]).reshape(2, 3, cells, cells)
    np.testing.assert_allclose(maps.sum(axis=(2, 3)), 1, atol=1e-5)
    assert f"glimpse 2: p(z) up to {maps[0, 1].max():.1%}" in figure.axes[1].get_title()
    for seen, (y, x) in zip(maps, model.look(images)["locations"][:, 0].numpy()):
        at = int(y * cells), int(x * cells)
        assert seen[0][at] > 0.02 and seen[1][at] < 0.02 * seen[0][at]


@pytest.mark.parametrize("draw", [draw_glimpses, draw_map])
def test_boxes(draw):
    model, images = map_model(num_glimpses=2), np.zeros((3, 60, 60, 1), np.float32)
    boxes = [[[10, 20, 30, 50], [1, 2, 3, 4]], [5, 6, 7, 8], np.zeros((0, 4))]
    without, figure = draw(model, images), draw(model, images, boxes=boxes)
    rows = len(figure.axes) // 3
    for plain, axes, expected in zip(without.axes[::rows], figure.axes[::rows], boxes):
        drawn = [box for box in corners(axes).tolist() if box not in corners(plain).tolist()]
        assert drawn == np.reshape(expected, (-1, 4)).tolist()
    for wrong in (boxes[:2], [[1, 2, 3]] * 3):
        with pytest.raises(ValueError, match=r"Expected boxes \(y1, x1, y2, x2\) for each of 3 images; got"):
            draw(model, images, boxes=wrong)


@pytest.mark.parametrize("draw", [draw_glimpses, draw_map])
def test_a_list_is_looked_at_one_by_one(draw, rng, monkeypatch):
    model, images = map_model(), rng.random((3, 24, 36, 1), dtype=np.float32)
    expected, shapes, look = rendered(draw(model, images)), [], model.look
    monkeypatch.setattr(model, "look", lambda image: shapes.append(image.shape) or look(image))
    np.testing.assert_array_equal(rendered(draw(model, list(images))), expected)
    assert shapes == [(1, 24, 36, 1)] * 3
    with pytest.raises(ValueError, match="at least one image; got none"):
        draw(model, [])
    with pytest.raises(ValueError, match=r"Expected batches of images .*; got shape \(1, 24, 36\)"):
        draw(model, [images[0, :, :, 0]])


def test_a_head_that_is_no_map(make_model, batch):
    with pytest.raises(ValueError, match="must predict maps, as LocationMap does; got LocationHead"):
        draw_map(make_model(), batch[0][:1])


@pytest.mark.parametrize("draw", [draw_glimpses, draw_map])
def test_a_model_that_diverged_is_drawn(draw, tmp_path):
    model = map_model()
    model.build((None, 60, 60, 1))
    for head in model.location_heads:
        head.set_weights([np.full_like(weights, np.nan) for weights in head.get_weights()])
    draw(model, np.zeros((1, 60, 60, 1), np.float32), path=tmp_path / "diverged.png")
    assert (tmp_path / "diverged.png").exists()
