"""Many running means kept in one variable."""

import keras
from keras import ops


class Measures(keras.metrics.Metric):
    """Running means of several named numbers, for the progress bar.

    A step of small networks is so short that a dozen `keras.metrics.Mean`, with two variables each, would take a good
    part of it. One vector costs as much as one of them.

    Example:
    >>> measures = Measures(["loss", "accuracy"])
    >>> measures.update_state([20.0, 5.0], count=10)
    >>> measures.update_state([10.0, 10.0], count=10)
    >>> {name: float(value) for name, value in measures.result().items()}
    {'loss': 1.5, 'accuracy': 0.75}
    """

    def __init__(self, names, name="measures"):
        super().__init__(name=name, dtype="float32")
        self.names = tuple(names)
        self.total = self.add_variable((len(self.names),), initializer="zeros", name="total")
        self.count = self.add_variable((), initializer="zeros", name="count")

    def update_state(self, sums, count):
        """Adds sums over `count` images, in the order of the names. (Of no images at all, a mean would be NaN.)"""
        self.total.assign_add(ops.stack([ops.cast(value, "float32") for value in sums]))
        self.count.assign_add(ops.cast(count, "float32"))

    def result(self):
        means = ops.divide_no_nan(self.total, self.count)
        return dict(zip(self.names, ops.unstack(means, len(self.names))))
