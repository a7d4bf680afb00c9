"""The images that tell a converter the ranges of activations."""

import numpy as np

from keras_glimpse._validation.images import check_spec
from keras_glimpse.cascade.predict import cascade_predict
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


def check_every_stage_is_reached(model, images: np.ndarray, threshold: float, least: int, wanted: str) -> np.ndarray:
    """The stages at which the cascade stops; raises unless `least` images, called what is `wanted`, need every glimpse."""
    stages = cascade_predict(model, images, threshold).exit_stage
    counts = np.bincount(stages, minlength=model.active_glimpses + 1)
    if counts[-1] < least:
        raise ValueError(
            f"Expected {wanted} for which every glimpse is needed at threshold {threshold}; of {len(stages)}, "
            f"{counts.tolist()} stop after 0, 1, ... glimpses. Give more, or harder, images."
        )
    return stages
