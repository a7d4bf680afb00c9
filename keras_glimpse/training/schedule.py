"""A schedule for the size of the search grid (section 2.2.3)."""

from collections.abc import Mapping

import keras

from keras_glimpse._validation.arguments import check_built_classifier, check_integers, check_search_size


class SearchSchedule(keras.callbacks.Callback):
    """Callback that sets `search_size` at the beginning of epochs, an extension of section 2.2.3.

    Training that resumes from a checkpoint uses the size of the epoch that it resumes at. Fine-tuning, which does not search,
    is not affected. After training, the model keeps the last size.

    Args:
        sizes: Mapping from epoch to the `search_size` from that epoch on, a positive odd integer: `{0: 5, 10: 3}` searches 5x5
            locations in the first ten epochs and 3x3 afterwards. Size 1 trains the glimpse at the predicted location only.

    Raises:
        ValueError: If there is no size for epoch 0, an epoch is negative, or a size is not a positive odd integer.
        TypeError: If `sizes` is not a mapping, or in training, if the model is not a `GlimpseClassifier`.

    Example:
    >>> import numpy as np
    >>> from keras_glimpse import GlimpseClassifier
    >>> images, labels = np.random.rand(100, 24, 24, 1).astype("float32"), np.random.randint(0, 2, 100)
    >>> model = GlimpseClassifier(num_classes=2, low_res_size=6, patch_size=6, hidden_units=20)
    >>> model.compile(stage=1)
    >>> _ = model.fit(images, labels, epochs=3, callbacks=[SearchSchedule({0: 5, 2: 3})], verbose=0)
    >>> model.search_size
    3

    Reference: Ranzato, "On Learning Where To Look", 2014, section 2.2.3.
    """

    def __init__(self, sizes: Mapping[int, int]):
        super().__init__()
        if not isinstance(sizes, Mapping):
            raise TypeError(f"sizes must map epochs to sizes, such as {{0: 5, 10: 3}}; got {sizes!r}.")
        if 0 not in sizes:
            raise ValueError(f"sizes must say where to search from epoch 0 on; got {dict(sizes)}.")
        for epoch, size in sizes.items():
            check_integers(0, epoch=epoch)
            check_search_size(size)
        self.sizes = dict(sizes)

    def on_train_begin(self, logs=None):
        check_built_classifier("SearchSchedule", self.model)

    def on_epoch_begin(self, epoch, logs=None):
        size = self.sizes[max(start for start in self.sizes if start <= epoch)]
        self.model.search_size = size
