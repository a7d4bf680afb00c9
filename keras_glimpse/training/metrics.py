"""The metrics that `compile` was given: the form of labels and predictions that each of them expects."""

from collections import Counter
from types import FunctionType

import keras
import tensorflow as tf
from keras import losses as L
from keras import metrics as M
from keras import ops

from keras_glimpse import _compat
from keras_glimpse.ops.labels import label_shares

# What Keras computes itself, by its class or function; all else is the user's own.
OF_KERAS = {found for module in (M, L) for found in vars(module).values() if isinstance(found, type | FunctionType)}
OF_KERAS -= {M.Metric, M.Mean, M.Sum, M.MeanMetricWrapper, L.Loss}

# These take class numbers, the others one number for each class, ...
OF_CLASSES = {found for found in OF_KERAS if "sparse" in found.__name__.lower()} | {M.Accuracy}
# ... of which these treat any value above 0 as positive: soft labels are rounded to one-hot first.
OF_TRUE_OR_FALSE = {M.AUC, M.Precision, M.Recall, M.F1Score, M.FBetaScore, M.BinaryAccuracy, M.binary_accuracy, M.BinaryIoU}
OF_TRUE_OR_FALSE |= {M.TruePositives, M.TrueNegatives, M.FalsePositives, M.FalseNegatives, M.PrecisionAtRecall}
OF_TRUE_OR_FALSE |= {M.RecallAtPrecision, M.SensitivityAtSpecificity, M.SpecificityAtSensitivity}


class UserMetrics(_compat.CompileMetrics):
    """Metrics of a model that gives logits, on labels of every sort: `[n]`, `[n, 1]`, or one-hot or soft `[n, num_classes]`.

    Args:
        metrics, weighted_metrics: as in `keras.Model.compile`; only the latter see sample weights.
        num_classes: number of classes.
        taken: names that the model shows already.

    Raises:
        ValueError: a name that is taken, or something that does not measure predictions.

    Example:
    >>> metrics = UserMetrics(["accuracy", keras.metrics.Precision(name="precision")], None, num_classes=2)
    >>> metrics.update_state(ops.array([0, 1, 1]), ops.array([[9.0, 7.0], [-3.0, 1.0], [0.0, 2.0]]))
    >>> {name: float(value) for name, value in metrics.result().items()}
    {'accuracy': 1.0, 'precision': 1.0}
    """

    def __init__(self, metrics, weighted_metrics, num_classes: int, taken=()):
        super().__init__(metrics, weighted_metrics)
        super().build(keras.KerasTensor((None,), "int32"), keras.KerasTensor((None, num_classes)))
        self._check(taken)
        self.built = False  # Some make their variables at the first update: see `build`.

    def _check(self, taken):
        plain, weighted = _compat.groups(self)
        for metric in (*plain, *weighted):
            if type(metric).update_state in (M.Mean.update_state, M.Sum.update_state):
                raise ValueError(f"{metric.name!r} averages values and compares no labels with predictions: not a metric here.")
        names = {metric.name for metric in weighted}  # The second "auc" is shown as "auc_1":
        names |= {f"{name}_{n}" if n else name for name, count in Counter(m.name for m in plain).items() for n in range(count)}
        if clash := sorted(names & {*taken, *(f"val_{name}" for name in taken)}):
            raise ValueError(f"The model itself shows {', '.join(clash)}: give the metric of that name another `name`.")

    def build(self, labels, logits):
        """Creates all variables before any step is traced, and raises for metrics that cannot work.

        Raises:
            ValueError: a metric that cannot be used with such labels and logits.
        """
        _compat.symbolically(self.update_state, labels, logits)

    def update_state(self, labels, logits, sample_weight=None):
        weights = None if sample_weight is None else ops.reshape(sample_weight, (-1,))
        for metrics, weight in zip(_compat.groups(self), (None, weights)):
            for metric in metrics:
                try:
                    metric.update_state(*arguments_of(metric, labels, logits), sample_weight=weight)
                except Exception as error:
                    what = f"labels {tuple(labels.shape)} and logits {tuple(logits.shape)}"
                    why = f"{type(error).__name__}: {error}"
                    raise ValueError(f"The metric {metric.name!r} cannot be computed from {what}: {why}") from error
        self.built = True


def arguments_of(metric, labels, logits):
    """The `(y_true, y_pred)` of a metric; `GlimpseClassifier.compile` documents the rule."""
    source = _compat.averaged(metric) if isinstance(metric, M.MeanMetricWrapper) else None
    kinds = (*type(metric).__mro__, source, *type(source).__mro__)
    kind = next((kind for kind in kinds if kind in OF_KERAS), None)
    if kind is None:
        return labels, logits
    if isinstance(metric, M.IoU) and kind is not M.BinaryIoU:
        of_classes, predicted_class = metric.sparse_y_true, metric.sparse_y_pred
    else:
        of_classes, predicted_class = kind in OF_CLASSES, kind is M.Accuracy
    shares = label_shares(labels, logits.shape[-1])
    numbers = ops.cast(ops.argmax(shares, axis=-1), "int32")  # Of soft labels, the most probable class.
    if of_classes:
        y_true = numbers
    else:
        y_true = ops.one_hot(numbers, logits.shape[-1], dtype="float32") if kind in OF_TRUE_OR_FALSE else shares
    if predicted_class:
        return y_true, ops.argmax(logits, axis=-1)
    if _compat.takes_logits(metric) or _compat.takes_logits(source):
        return y_true, logits
    return y_true, tf.nn.softmax(logits)  # Keras's own attaches the logits, which `BinaryCrossentropy` would use.
