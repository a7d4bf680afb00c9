"""Many running means kept in one variable."""

from keras import ops

from keras_glimpse._compat import MetricsList, shown_by_callbacks

# Prefixes of names that should rise, suffixes of names that should fall; `border_px` has no direction.
UP, DOWN = ("accuracy",), ("loss", "moved_px")


class Measures(MetricsList):
    """Running means of several named numbers, for the progress bar.

    A step of small networks is so short that a dozen `keras.metrics.Mean`, with two variables each, would take a good
    part of it. One array costs less than one of them. Callbacks in mode "auto" find in `metrics` what is better.

    Args:
        names: all that may be measured.

    Example:
    >>> measures = Measures(["loss", "accuracy_1", "border_px"])
    >>> measures.update_state({"loss": 20.0, "accuracy_1": 5.0}, count=10)
    >>> measures.update_state({"loss": 10.0, "accuracy_1": 10.0}, count=10)
    >>> {name: float(value) for name, value in measures.result().items()}
    {'loss': 1.5, 'accuracy_1': 0.75}
    """

    def __init__(self, names, name="loss"):  # In the place, and by the name, of Keras's own mean of the loss.
        super().__init__([shown_by_callbacks(each, _direction(each)) for each in names], name=name)
        self.names = tuple(names)
        self.state = self.add_variable((2, len(self.names)), initializer="zeros", dtype="float32", name="sums_and_counts")

    def update_state(self, sums, count):
        """Adds `sums` by name, each over `count` images."""
        count = ops.cast(count, "float32")
        rows = [(ops.cast(sums[name], "float32"), count) if name in sums else (0.0, 0.0) for name in self.names]
        self.state.assign_add(ops.stack([ops.stack(row) for row in zip(*rows)]))

    def reset_state(self):
        self.state.assign(ops.zeros_like(self.state))

    def result(self, names=None):
        """The means by name; in a graph, of the `names` given, elsewhere of all that were measured since the last reset."""
        if names is None:
            counts = ops.convert_to_numpy(self.state)[1]
            names = [name for name, count in zip(self.names, counts) if count > 0]
        means = dict(zip(self.names, ops.unstack(ops.divide_no_nan(self.state[0], self.state[1]), len(self.names))))
        return {name: means[name] for name in names}  # The mean over no images is 0, not NaN.


def _direction(name):
    if name.startswith(UP):
        return "up"
    return "down" if name.endswith(DOWN) else None
