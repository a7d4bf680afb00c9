"""Searches over fewer places as training proceeds (section 2.2.3)."""

from collections.abc import Mapping

import keras

from keras_glimpse._validation.arguments import check_built_classifier, check_integers, check_search_size


class SearchSchedule(keras.callbacks.Callback):
    """Changes the grid of candidate places at the beginning of epochs: an extension of section 2.2.3.

    A training that goes on from a checkpoint searches as it would have without the break. A stage that does not search, that
    is fine-tuning, is trained as without. The model keeps the last size as its `search_size`.

    Args:
        sizes: `search_size` from an epoch on, by the number of that epoch: `{0: 5, 10: 3}` searches 5x5 places in the first
            ten epochs, 3x3 in all others. With 1 the glimpse is trained at the predicted place alone.

    Raises:
        ValueError: no size for epoch 0, or a size that is not odd.
        TypeError: `sizes` is no mapping, or what it is to train is no `GlimpseClassifier`.

    Example:
    >>> import numpy as np
    >>> from keras_glimpse import GlimpseClassifier
    >>> images, labels = np.random.rand(100, 24, 24, 1).astype("float32"), np.random.randint(0, 2, 100)
    >>> model = GlimpseClassifier(num_classes=2, low_res_size=6, patch_size=6, hidden_units=20)
    >>> model.compile(stage=1)
    >>> _ = model.fit(images, labels, epochs=3, callbacks=[SearchSchedule({0: 5, 2: 3})], verbose=0)
    >>> model.search_size
    3
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
