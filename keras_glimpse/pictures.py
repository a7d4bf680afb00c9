"""Plots of where a model looks, and of where it would look."""

import os
from functools import partial
from typing import NamedTuple

import numpy as np

from keras_glimpse._validation.images import check_images
from keras_glimpse._validation.labels import check_label_values
from keras_glimpse.layers import LowResNet
from keras_glimpse.layers.conv_low_res_net import ConvLowResNet
from keras_glimpse.ops.geometry import extent
from keras_glimpse.ops.thumbnail import downsample, to_unit_range
from keras_glimpse.sources.batches import are_sources, listed
from keras_glimpse.sources.image import ImageSource
from keras_glimpse.sources.opening import open_image

COLOURS = ("tab:red", "tab:cyan", "tab:orange", "tab:green", "tab:purple", "tab:pink")
BOX_COLOUR = "lime"
WIDTH, HEIGHT, TITLE = 1.6, 1.85, 0.25  # Inches of a panel, its title included, and of the title.
DRAWN = 1000  # Pixels of the longer side of an image that is read in parts
ENLARGED = 1 / 8  # Rows are enlarged if the finest patch is narrower than this share of an image's longer side.


def draw_glimpses(model, images, labels=None, path: str | os.PathLike | None = None, class_names=None, boxes=None):
    """Plots one row per image, as in figure 5 of the paper: the image, its thumbnail, and each glimpse.

    On the image, a solid frame marks each glimpse's finest patch, dashed frames its coarser ones. Titles are the predictions of
    the low-resolution network and after each glimpse; with labels, green if correct and red if wrong.

    If the longer side of an image is more than 8 times that of the finest patch, rows are enlarged: the image is drawn at least
    twice as large as the glimpses, its frames are numbered, and below the finest patch of a glimpse are its coarser ones.

    Images are drawn as the networks see them, after the model's `preprocess`: if that gives values outside of [0, 1], from the
    lowest of an image in black to the highest in white.

    Args:
        model: A `GlimpseClassifier`.
        images: Array `[n, height, width, channels]` with 1 or 3 channels, of floats in [0, 1] or unsigned integers; a dozen fit
            on a page. Or a list of arrays `[height, width, channels]`, which are looked at one by one, or of paths or
            `ImageSource` objects, which are drawn at no more than 1000 pixels a side.
        labels: Optional integer array `[n]` of class indices. Defaults to `None`.
        path: Optional string or path of the picture to write, in the format of its suffix. Defaults to `None`.
        class_names: Optional sequence of strings, the names of the classes. Defaults to `None`, those of the model, or their
            indices if it has none.
        boxes: Optional sequence with the bounding boxes of each image, drawn as thin green frames: an array `[boxes, 4]`, or
            `[4]` for a single one, of `(y1, x1, y2, x2)` in pixels. Defaults to `None`.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed (`pip install keras-glimpse[pictures]`).
        TypeError: If the images are not arrays of floats, uint8 or uint16.
        ValueError: If there are no images, they have neither 1 nor 3 channels or the wrong shape, labels are not one class for
            each image, class names are not one for each class, or boxes are not four numbers each or `preprocess` changes the
            size of the images that they are given for.

    Example:
    >>> from keras_glimpse import GlimpseClassifier
    >>> model = GlimpseClassifier(num_classes=10, num_glimpses=2)
    >>> figure = draw_glimpses(model, np.zeros((3, 48, 48, 1), "float32"))
    >>> len(figure.axes)  # 3 rows of the image, its thumbnail and 2 glimpses
    12
    """
    from matplotlib.figure import Figure

    images, seen, boxes = _one_by_one(model, images, boxes)
    class_names = model.class_names if class_names is None else class_names
    if class_names is not None and len(class_names) != model.num_classes:
        raise ValueError(f"Expected a name for each of {model.num_classes} classes; got {len(class_names)}.")
    labels = None if labels is None else _checked(np.asarray(labels), len(images), model.num_classes)
    enlarged = model.crop.size * min(model.crop.scales) < ENLARGED * max(max(each.shape[:2]) for each in seen)
    figure = Figure(layout="constrained")
    rows = (_enlarged_rows if enlarged else _rows)(figure, seen, model)
    for row, (image, each, panels) in enumerate(zip(images, seen, rows)):
        label = None if labels is None else int(labels[row])
        looked = {name: np.asarray(values)[0] for name, values in model.look(image).items()}
        _draw_row(*panels, model, each, looked, label, class_names, boxes[row], enlarged)
    if path is not None:
        figure.savefig(path, dpi=180 if enlarged else 120)
    return figure


def draw_map(model, images, path: str | os.PathLike | None = None, boxes=None):
    """Plots a heat map of where a model would look: one row per image, one column per glimpse.

    Over the image lies p(z), the probability that a location head gives to each place, before the glimpse: from dark to bright,
    up to the most probable place of each map. A circle marks the location chosen. Titles are the largest probability of a cell
    and, for comparison, that of each cell of a uniform map.

    Args:
        model: A `GlimpseClassifier` whose location heads predict maps, such as `LocationMap`.
        images: Array `[n, height, width, channels]` or list of arrays, as in `draw_glimpses`.
        path: Optional string or path of the picture to write, in the format of its suffix. Defaults to `None`.
        boxes: Optional bounding boxes, as in `draw_glimpses`. Defaults to `None`.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed (`pip install keras-glimpse[pictures]`).
        TypeError: If the images are not arrays of floats, uint8 or uint16.
        ValueError: If a location head predicts no map, or the images or boxes are not as in `draw_glimpses`.

    Example:
    >>> from keras_glimpse import ConvLowResNet, GlimpseClassifier, LocationMap
    >>> model = GlimpseClassifier(num_classes=10, low_res_net=ConvLowResNet(10), location_head=LocationMap())
    >>> figure = draw_map(model, np.zeros((3, 256, 256, 1), "float32"))
    >>> len(figure.axes)  # 3 rows of 2 glimpses
    6
    """
    from matplotlib.figure import Figure

    images, seen, boxes = _one_by_one(model, images, boxes)
    size = (2 * WIDTH * model.active_glimpses * _widest(seen), (2 * WIDTH + TITLE) * len(images))
    figure = Figure(figsize=size, layout="constrained")
    rows = figure.subplots(len(images), model.active_glimpses, squeeze=False)
    for image, each, its_boxes, row in zip(images, seen, boxes, rows):
        bottom, right = extent((1, *each.shape))  # Cells are parts of what lies between location 0 and location 1.
        for n, (axes, (p, (y, x))) in enumerate(zip(row, _maps(model, image))):
            title = f"glimpse {n + 1}: p(z) up to {p.max():.1%} (uniform {1 / p.size:.1%})"
            _show(axes, each.whole(), title, edges=each.edges)
            axes.imshow(p, "inferno", alpha=0.6, vmin=0, extent=(0, right, bottom, 0), interpolation="bilinear")
            axes.plot(x * right, y * bottom, "o", color="white", markersize=14, fillstyle="none", path_effects=_outline())
            axes.set(xlim=(0, right), ylim=(bottom, 0))
            _draw_boxes(axes, its_boxes)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


class Seen(NamedTuple):
    """An image as the networks see it.

    Attributes:
        pixels: array `[1, height, width, channels]`, or an `ImageSource`.
        low, high: the values that are drawn in black and in white.
    """

    pixels: np.ndarray | ImageSource
    low: float = 0.0
    high: float = 1.0

    @classmethod
    def of(cls, model, image) -> "Seen":
        if isinstance(image, ImageSource):
            return cls(image)
        prepared = model.prepare(image)
        pixels = np.asarray(to_unit_range(prepared, prepared.dtype), "float32")
        return cls(pixels) if model.preprocess is None else cls(pixels, min(0.0, pixels.min()), max(1.0, pixels.max()))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.pixels.shape[-3:]

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top, in pixels."""
        height, width, _ = self.shape
        return -0.5, width - 0.5, height - 0.5, -0.5

    def drawn(self, values):
        """Values of it as what is drawn, from 0 to 1."""
        return (np.asarray(values) - self.low) / (self.high - self.low)

    def whole(self):
        """All of it, at most `DRAWN` pixels wide if it is read in parts."""
        if not isinstance(self.pixels, ImageSource):
            return self.drawn(self.pixels[0])
        height, width, _ = self.shape
        most = min(1, DRAWN / max(height, width))
        return self.pixels.thumbnail((max(1, round(most * height)), max(1, round(most * width))))

    def thumbnail(self, net):
        """What the low-resolution network sees; of a network of the user's own that is not known, so the whole image."""
        if isinstance(self.pixels, ImageSource):
            return self.pixels.thumbnail(net.size)
        ours = isinstance(net, LowResNet | ConvLowResNet)
        return self.drawn(downsample(self.pixels, *((net.size, net.downsample) if ours else (self.shape[:2], "area"))))[0]


def _one_by_one(model, images, boxes):
    """The images as batches of one, since they may differ in size, or as sources; each as it is seen; its boxes, `[n, 4]`."""
    if are_sources(images):
        images = [open_image(image, model.channels) for image in listed(images)]
    else:
        if not isinstance(images, list | tuple):
            check_images(images)
        images = [np.asarray(image)[None] for image in images]
        for image in images:
            check_images(image)
    if not images:
        raise ValueError("Expected at least one image; got none.")
    seen = [Seen.of(model, image) for image in images]
    for _, _, channels in (each.shape for each in seen):
        if channels not in (1, 3):
            raise ValueError(f"Only images of 1 or 3 channels can be drawn; got {channels}.")
    boxes = [np.asarray(each) for each in ([[]] * len(images) if boxes is None else boxes)]
    if len(boxes) != len(images) or any(each.size and each.shape[-1] != 4 for each in boxes):
        shapes = ", ".join(str(each.shape) for each in boxes)
        raise ValueError(f"Expected boxes (y1, x1, y2, x2) for each of {len(images)} images; got arrays of {shapes}.")
    for image, each, its_boxes in zip(images, seen, boxes):
        if its_boxes.size and image.shape[-3:-1] != each.shape[:2]:
            sizes = "{}x{} pixels to {}x{}".format(*image.shape[-3:-1], *each.shape[:2])
            raise ValueError(f"Expected no boxes, since preprocess changes images of {sizes}; got {its_boxes.tolist()}.")
    return images, seen, [each.reshape(-1, 4) for each in boxes]


def _checked(labels, count, classes):
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(f"Expected an integer for each of {count} images as labels; got {labels.shape}, {labels.dtype}.")
    check_label_values("", labels, classes)
    return labels


def _maps(model, image):
    """p(z) `[rows, columns]` before each glimpse, and the location of the glimpse."""
    looked = model.look(image)
    in_parts = isinstance(image, ImageSource)
    evidence = model.first_look(image.thumbnail(model.low_res_net.size)[None] if in_parts else model.prepare(image))
    for n, head in enumerate(model.location_heads[: model.active_glimpses]):
        log_map = model.log_map(evidence)
        if log_map is None:
            raise ValueError(f"Location heads must predict maps, as LocationMap does; got {type(head).__name__}.")
        location = looked["locations"][:, n]
        yield np.exp(log_map)[0], np.asarray(location)[0]
        evidence = model.glimpse(evidence, looked["patches"][:, n], location)


def _widest(seen):
    """The largest ratio of width to height."""
    return max(width / height for height, width, _ in (each.shape for each in seen))


def _rows(figure, seen, model):
    """The axes of each image: its own, its thumbnail's and, for each glimpse, a list of its patches'."""
    columns = 2 + model.active_glimpses
    figure.set_size_inches(WIDTH * columns, HEIGHT * len(seen))
    for image, thumbnail, *glimpses in figure.subplots(len(seen), columns, squeeze=False):
        yield image, thumbnail, [[glimpse] for glimpse in glimpses]


def _enlarged_rows(figure, seen, model):
    """The same: right of each image its thumbnail and glimpses, in two lines if patches have one scale; coarse below fine."""
    scales, glimpses = len(model.crop.scales), model.active_glimpses
    tall = max(2, scales)
    columns = -(-(1 + glimpses) // (tall // scales))
    wide = (HEIGHT * tall - TITLE) * _widest(seen)
    figure.set_size_inches(wide + WIDTH * columns, HEIGHT * tall * len(seen))
    grid = figure.add_gridspec(tall * len(seen), 1 + columns, width_ratios=[wide] + [WIDTH] * columns)
    add = partial(figure.add_subplot, anchor="N")
    for top in range(0, grid.nrows, tall):
        places = [(top + scales * (n // columns), 1 + n % columns) for n in range(1 + glimpses)]
        thumbnail, *stacks = [[grid[row + k, column] for k in range(scales)] for row, column in places]
        whole = add(grid[top : top + tall, 0])
        yield whole, add(thumbnail[0]), [[add(cell) for cell in stack] for stack in stacks]


def _draw_row(whole, thumbnail, glimpses, model, seen, looked, label, class_names, boxes, enlarged):
    probabilities = np.exp(looked["logits"] - np.logaddexp.reduce(looked["logits"], axis=-1, keepdims=True))
    _show(whole, seen.whole(), "" if label is None else f"label {_name(label, class_names)}", edges=seen.edges)
    _show(thumbnail, seen.thumbnail(model.low_res_net), *_title("thumbnail", probabilities[0], label, class_names))
    _draw_boxes(whole, boxes)
    crop, channels = model.crop, seen.shape[-1]
    for n, (panels, location, patches) in enumerate(zip(glimpses, looked["locations"], looked["patches"])):
        colour = COLOURS[n % len(COLOURS)]
        y, x = np.nan_to_num(location) * extent((1, *seen.shape))  # NaN, as of a model that diverged, is no limit of axes.
        predicted = _title(f"glimpse {n + 1}", probabilities[n + 1], label, class_names)
        _draw_frames(whole, y, x, crop, colour)
        if enlarged:
            _draw_number(whole, y, x, crop, colour, n + 1)
        for panel, k in zip(panels, np.argsort(crop.scales)):  # In pixels of the image, as frames and boxes are.
            side = crop.scales[k] * crop.size
            edges = (x - side / 2, x + side / 2, y + side / 2, y - side / 2)
            title = predicted if panel is panels[0] else (f"{side} pixels wide", "black")
            _show(panel, seen.drawn(patches[..., k * channels : (k + 1) * channels]), *title, edges)
            if panel is not panels[0]:
                _draw_frames(panel, y, x, crop, colour)
            _draw_boxes(panel, boxes)
            for spine in panel.spines.values():
                spine.set(color=colour, linewidth=2)


def _name(label, class_names):
    return str(label) if class_names is None else str(class_names[label])


def _title(what, probabilities, label, class_names):
    predicted = int(probabilities.argmax())
    colour = "black" if label is None else "tab:green" if predicted == label else "tab:red"
    return f"{what}: {_name(predicted, class_names)} ({probabilities[predicted]:.0%})", colour


def _show(axes, pixels, title, colour="black", edges=None):
    axes.imshow(np.clip(pixels, 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=edges)
    axes.set_title(title, fontsize=8, color=colour)
    axes.set(xticks=[], yticks=[])


def _draw_frames(axes, y, x, crop, colour):
    from matplotlib.patches import Rectangle

    for scale in crop.scales:
        side = scale * crop.size
        style = "solid" if scale == min(crop.scales) else "dashed"
        corner = (x - side / 2, y - side / 2)
        axes.add_patch(Rectangle(corner, side, side, fill=False, color=colour, linestyle=style, linewidth=1.2))


def _draw_number(axes, y, x, crop, colour, number):
    """Beside the upper right corner of the frames, of a size that is read where frames are tiny."""
    reach = max(crop.scales) * crop.size / 2
    corner = min(x + reach, axes.get_xlim()[1]), max(y - reach, axes.get_ylim()[1])
    box = {"boxstyle": "round,pad=0.15", "color": colour}
    axes.annotate(str(number), corner, fontsize=8, color="white", weight="bold", bbox=box)


def _draw_boxes(axes, boxes):
    from matplotlib.patches import Rectangle

    for y1, x1, y2, x2 in boxes:
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=BOX_COLOUR, linewidth=0.8))


def _outline():
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.5, foreground="black")]
