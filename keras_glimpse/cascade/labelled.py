"""The logits after each glimpse for labelled images, such as those that were held out of training."""

import keras
import numpy as np
import tensorflow as tf

from keras_glimpse._validation.arguments import check_built_classifier, check_integers
from keras_glimpse._validation.labels import check_labels
from keras_glimpse.ops.labels import label_shares
from keras_glimpse.sources.batches import are_sources, listed


def look_at_labelled(function: str, model, images, labels=None, batch_size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Logits `[n, active_glimpses + 1, num_classes]` and the classes' shares of the labels `[n, num_classes]`.

    Args:
        function: the name of the function whose arguments the others are.
        model: a built `GlimpseClassifier`.
        images, labels, batch_size: see `cascade_curve`.

    Raises:
        ValueError, TypeError: see `cascade_curve`.
    """
    in_parts = are_sources(images)
    batch_size = (32 if in_parts else 1000) if batch_size is None else batch_size
    check_integers(1, batch_size=batch_size)
    check_built_classifier(function, model)
    if not isinstance(images, tf.data.Dataset):
        images = listed(images) if in_parts else images
        if not in_parts:
            model.check_images(images, at_least=1)
        if np.shape(labels)[:1] != (len(images),):
            raise ValueError(f"Expected images and as many labels; got {len(images)} and {np.shape(labels)}.")
        starts, labels = range(0, len(images), batch_size), np.asarray(labels)
        images = [(images[start : start + batch_size], labels[start : start + batch_size]) for start in starts]
    looks = [_look_at_all(model, *keras.utils.unpack_x_y_sample_weight(batch)) for batch in images]
    if not looks:
        raise ValueError("Expected at least one batch of images; got an empty dataset.")
    logits, shares = (np.concatenate(parts) for parts in zip(*looks))
    return logits, shares


def _look_at_all(model, images, labels, sample_weight):
    if labels is None:
        raise ValueError("Expected batches of (images, labels); got images alone.")
    check_labels(labels, model.num_classes)
    return model.look(images)["logits"].numpy(), label_shares(labels, model.num_classes).numpy()
