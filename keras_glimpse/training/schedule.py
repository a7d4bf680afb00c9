"""A schedule for the search: from the whole image to the neighbourhood of the prediction (section 2.2.3)."""

from collections.abc import Mapping
from functools import partial

import keras

from keras_glimpse._validation.arguments import (
    check_assignment,
    check_built_classifier,
    check_integers,
    check_numbers,
    check_search_samples,
    check_search_size,
    check_search_stride,
)

CHECKS = {
    "search_size": check_search_size,
    "search_stride": check_search_stride,
    "search_samples": check_search_samples,
    "assignment": check_assignment,
    "sharpness": partial(check_numbers, above=0.0),
}


class SearchSchedule(keras.callbacks.Callback):
    """Callback that sets the search at the beginning of epochs, an extension of section 2.2.3.

    Training that resumes from a checkpoint searches as the epoch that it resumes at. Fine-tuning, which does not search, is not
    affected. After training, the model keeps the last settings.

    Args:
        sizes: Mapping from epoch to the `search_size` from that epoch on, or to a mapping of `search_size`, `search_stride`,
            `search_samples`, `assignment` and `sharpness`, as of `GlimpseClassifier`: `{0: 5, 10: 3}` searches 5x5 locations in
            the first ten epochs and 3x3 afterwards. What a phase does not set stays; the first one sets all that later ones do.
            Size 1 trains the glimpse at the predicted location only.

    Raises:
        ValueError: If there is no size for epoch 0, an epoch is negative, or a setting is invalid or first set later.
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

    def __init__(self, sizes: Mapping[int, int | str | Mapping]):
        super().__init__()
        if not isinstance(sizes, Mapping):
            raise TypeError(f"sizes must map epochs to sizes, such as {{0: 5, 10: 3}}; got {sizes!r}.")
        if 0 not in sizes:
            raise ValueError(f"sizes must say where to search from epoch 0 on; got {dict(sizes)}.")
        self.sizes = {epoch: _settings(epoch, size) for epoch, size in sizes.items()}
        for name in {name for phase in self.sizes.values() for name in phase} - {*self.sizes[0]}:
            raise ValueError(f"The phase from epoch 0 on must set {name}, as a later one does; got {self.sizes[0]}.")

    @classmethod
    def whole_to_local(cls, epochs: int) -> "SearchSchedule":
        """A schedule from the whole image to the paper's 3x3, for images of any size.

        The first half of the epochs searches the whole image; then 7x7, 5x5 and 3x3 locations around the prediction, at
        strides that shrink from 1/16 to 1/48 of the image's longer side, a sixth of the epochs each.

        Args:
            epochs: Positive integer, the epochs of the stage.

        Returns:
            A `SearchSchedule`.

        Example:
        >>> list(SearchSchedule.whole_to_local(12).sizes)
        [0, 6, 8, 10]
        """
        check_integers(1, epochs=epochs)
        local = {3 / 6: (7, 1 / 16), 4 / 6: (5, 1 / 32), 5 / 6: (3, 1 / 48)}
        phases = {round(share * epochs): {"search_size": n, "search_stride": by} for share, (n, by) in local.items()}
        return cls(
            {0: {"search_size": "image", "search_stride": 1 / 16}}
            | {epoch: phase for epoch, phase in phases.items() if 0 < epoch < epochs}
        )

    def on_train_begin(self, logs=None):
        check_built_classifier("SearchSchedule", self.model)

    def on_epoch_begin(self, epoch, logs=None):
        for start in sorted(start for start in self.sizes if start <= epoch):  # A phase keeps what the next does not set.
            for name, value in self.sizes[start].items():
                if getattr(self.model, name) != value:
                    setattr(self.model, name, value)


def _settings(epoch, settings):
    """What a phase sets, by name."""
    check_integers(0, epoch=epoch)
    if not isinstance(settings, Mapping):
        settings = {"search_size": settings}
    for name, value in settings.items():
        if name not in CHECKS:
            raise ValueError(f"A phase sets {', '.join(CHECKS)}; got {name!r}.")
        CHECKS[name](**{name: value})
    return dict(settings)
