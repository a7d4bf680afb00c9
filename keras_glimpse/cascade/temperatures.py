"""Temperature scaling: probabilities that say how often the model is right, after each glimpse."""

import numpy as np
from keras import ops

from keras_glimpse._validation.arguments import TEMPERATURES
from keras_glimpse.cascade.labelled import look_at_labelled


def fit_temperatures(model, images, labels=None, batch_size: int | None = None) -> tuple[float, ...]:
    """Calibrates the probabilities after each glimpse, on labelled images that were held out of training.

    Sets `model.temperatures`, by which logits are divided in inference, one for each stage: those of the least cross-entropy
    ("temperature scaling"; Guo et al., "On Calibration of Modern Neural Networks", 2017). Predicted classes stay as they are.
    A cascade may stop elsewhere, so choose its threshold afterwards: it then means as much at one stage as at another, which
    matters most where a few glimpses look surer than they are.

    So that a stage that is right on all these images is not certain of all others, the labels are smoothed by as much as one
    image of no class among them would. Weights of samples are ignored.

    Fit again after anything that changes logits: `averaging`, weights, `quantize`. Training sets all temperatures to 1.

    Args:
        model: A built `GlimpseClassifier`.
        images: Array `[n, height, width, channels]`, a `tf.data.Dataset` of batches `(images, labels)` or images that are read
            in parts, as in `cascade_curve`. They should be in neither the training nor the test set.
        labels: Array of class indices, or of one-hot or soft labels `[n, num_classes]`; `None` for a dataset. Defaults to
            `None`.
        batch_size: Optional positive integer, images per batch, for an array or a list. Defaults to `None`: 1000 of an array,
            32 of images that are read in parts.

    Returns:
        Tuple of `num_glimpses + 1` floats from 0.01 to 100, the new `model.temperatures`: 100 after glimpses that are right no
        more often than by chance. Those of glimpses that are not active stay as they are.

    Raises:
        ValueError: If there are no images, labels are missing, invalid or not as many as images, `batch_size` is out of range,
            the model is not built, or its logits are not finite.
        TypeError: If images or labels have an invalid type, or `model` is not a `GlimpseClassifier`.

    Example:
    >>> from keras_glimpse import GlimpseClassifier
    >>> model = GlimpseClassifier(num_classes=10, num_glimpses=1)
    >>> model.build((None, 48, 48, 1))
    >>> temperatures = fit_temperatures(model, np.random.rand(30, 48, 48, 1).astype("float32"), np.arange(30) % 10)
    >>> model.temperatures == temperatures
    True
    """
    logits, shares = look_at_labelled("fit_temperatures", model, images, labels, batch_size)
    if not np.isfinite(logits).all():
        raise ValueError("Expected a model that gives finite logits; got some that are infinite or not numbers.")
    before, active = model.temperatures, logits.shape[1]
    found = [_best(temperature * logits[:, n], shares) for n, temperature in enumerate(before[:active])]
    model.temperatures = (*found, *before[active:])
    return model.temperatures


def _best(logits, shares):
    """The temperature of the least cross-entropy of logits `[n, classes]`: a bisection of its slope."""
    targets = (len(shares) * shares + 1 / shares.shape[1]) / (len(shares) + 1)
    low, high = np.log(TEMPERATURES)
    for _ in range(30):  # To 1e-8.
        middle = (low + high) / 2
        probabilities = ops.convert_to_numpy(ops.softmax(logits / np.float32(np.exp(middle))))
        slope = np.sum((probabilities - targets) * logits, dtype=np.float64)  # Along 1 / temperature.
        low, high = (middle, high) if slope > 0 else (low, middle)
    return float(np.exp((low + high) / 2))
