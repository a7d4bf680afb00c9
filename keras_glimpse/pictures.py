"""Plots of where a model looks."""

import os

import numpy as np

from keras_glimpse._validation.images import check_images
from keras_glimpse.layers import LowResNet
from keras_glimpse.ops.thumbnail import downsample, to_unit_range

COLOURS = ("tab:red", "tab:cyan", "tab:orange", "tab:green", "tab:purple", "tab:pink")


def draw_glimpses(model, images, labels=None, path: str | os.PathLike | None = None, class_names=None):
    """Plots one row per image, as in figure 5 of the paper: the image, its thumbnail, and each glimpse.

    On the image, a solid frame marks each glimpse's finest patch, dashed frames its coarser ones. Titles are the predictions of
    the low-resolution network and after each glimpse; with labels, green if correct and red if wrong.

    Args:
        model: A `GlimpseClassifier`.
        images: Array `[n, height, width, channels]` with 1 or 3 channels, of floats in [0, 1] or unsigned integers; a dozen fit
            on a page.
        labels: Optional integer array `[n]` of class indices. Defaults to `None`.
        path: Optional string or path of the picture to write, in the format of its suffix. Defaults to `None`.
        class_names: Optional sequence of strings, the names of the classes. Defaults to `None`, their indices.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed (`pip install keras-glimpse[pictures]`).
        TypeError: If `images` is not one array of floats, uint8 or uint16.
        ValueError: If there are no images, they have neither 1 nor 3 channels or the wrong shape, or labels are not one integer
            for each image.

    Example:
    >>> from keras_glimpse import GlimpseClassifier
    >>> model = GlimpseClassifier(num_classes=10, num_glimpses=2)
    >>> figure = draw_glimpses(model, np.zeros((3, 48, 48, 1), "float32"))
    >>> len(figure.axes)  # 3 rows of the image, its thumbnail and 2 glimpses
    12
    """
    from matplotlib.figure import Figure

    check_images(images, at_least=1)
    if images.shape[-1] not in (1, 3):
        raise ValueError(f"Only images of 1 or 3 channels can be drawn; got {images.shape[-1]}.")
    labels = None if labels is None else np.asarray(labels)
    if labels is not None and (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu"):
        raise ValueError(f"Expected an integer for each of {len(images)} images as labels; got {labels.shape}, {labels.dtype}.")
    looked = {name: np.asarray(values) for name, values in model.look(images).items()}
    probabilities = np.exp(looked["logits"] - np.logaddexp.reduce(looked["logits"], axis=-1, keepdims=True))
    n0 = model.low_res_net  # A network of the user's own may not see a thumbnail as ours does.
    shown = (n0.size, n0.downsample) if isinstance(n0, LowResNet) else (images.shape[1:3], "area")
    thumbnails = np.asarray(downsample(np.asarray(images), *shown))
    finest = images.shape[-1] * int(np.argmin(model.crop.scales))
    pixels = np.asarray(to_unit_range(images, images.dtype))
    columns = 2 + model.active_glimpses
    figure = Figure(figsize=(1.6 * columns, 1.85 * len(images)), layout="constrained")
    for row, axes in enumerate(figure.subplots(len(images), columns, squeeze=False)):
        label = None if labels is None else int(labels[row])
        _show(axes[0], pixels[row], "" if label is None else f"label {_name(label, class_names)}")
        _show(axes[1], thumbnails[row], *_title("thumbnail", probabilities[row, 0], label, class_names))
        for n, location in enumerate(looked["locations"][row]):
            colour = COLOURS[n % len(COLOURS)]
            _frame(axes[0], location, model.crop, images.shape, colour)
            title = _title(f"glimpse {n + 1}", probabilities[row, n + 1], label, class_names)
            _show(axes[2 + n], looked["patches"][row, n, :, :, finest : finest + images.shape[-1]], *title)
            for spine in axes[2 + n].spines.values():
                spine.set(color=colour, linewidth=2)
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def _name(label, class_names):
    return str(label) if class_names is None else str(class_names[label])


def _title(what, probabilities, label, class_names):
    predicted = int(probabilities.argmax())
    colour = "black" if label is None else "tab:green" if predicted == label else "tab:red"
    return f"{what}: {_name(predicted, class_names)} ({probabilities[predicted]:.0%})", colour


def _show(axes, pixels, title, colour="black"):
    axes.imshow(np.clip(pixels, 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=8, color=colour)
    axes.set(xticks=[], yticks=[])


def _frame(axes, location, crop, image_shape, colour):
    from matplotlib.patches import Rectangle

    y, x = location * (np.asarray(image_shape[1:3]) - 1)
    for scale in crop.scales:
        side = scale * crop.size
        style = "solid" if scale == min(crop.scales) else "dashed"
        corner = (x - side / 2, y - side / 2)
        axes.add_patch(Rectangle(corner, side, side, fill=False, color=colour, linestyle=style, linewidth=1.2))
