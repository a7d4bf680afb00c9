"""The images that tell a converter the ranges of activations."""

import numpy as np

from keras_glimpse._validation.images import check_spec
from keras_glimpse.ops.thumbnail import to_unit_range


def calibration_images(model, shape: tuple[int, int, int], images) -> np.ndarray:
    """The images in float32, as the file will be given them.

    Args:
        model: the model that is exported.
        shape: `(height, width, channels)` of the images that the file takes.
        images: array `[n, height, width, channels]`; unsigned integers are scaled to [0, 1], unless the model has `preprocess`.

    Raises:
        TypeError: images of an invalid type.
        ValueError: no images, or of the wrong shape or range, or not finite.
    """
    images = np.asarray(images)
    check_spec(images.shape, images.dtype, shape)
    if not len(images):
        raise ValueError("Expected at least one calibration image; got none.")
    if not np.isfinite(images).all():
        raise ValueError("Expected calibration images of finite numbers; got some that are infinite or not numbers.")
    model.check_pixels(images)
    return images.astype(np.float32) if model.preprocess else to_unit_range(images, images.dtype).numpy()
