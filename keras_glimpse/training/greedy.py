"""Greedy training, one stage after another, in the order of section 2.2.4."""

import numbers
from collections.abc import Callable, Mapping, Sequence
from math import ceil, floor

import keras
import tensorflow as tf

from keras_glimpse.training.replicas import scope_of
from keras_glimpse.training.stages import FINE_TUNE, Stage, all_stages


def paper_sgd(steps: int | None = None, learning_rate: float = 0.05) -> keras.optimizers.Optimizer:
    """The paper's optimizer: SGD with momentum 0.9, with linear decay of the learning rate to 0 if `steps` is given.

    The paper keeps the learning rate constant; with decay, the weights of the last epoch can be used without early stopping,
    and reach a lower error.

    Args:
        steps: Optional positive integer, the number of training steps until the learning rate is 0. Defaults to `None`, a
            constant learning rate.
        learning_rate: Positive float, the initial learning rate. Defaults to `0.05`.

    Returns:
        A new `keras.optimizers.SGD`.

    Example:
    >>> float(paper_sgd(learning_rate=0.01).momentum)
    0.9

    Reference: Ranzato, "On Learning Where To Look", 2014, section 4.
    """
    if steps:
        learning_rate = keras.optimizers.schedules.PolynomialDecay(learning_rate, steps, end_learning_rate=0.0)
    return keras.optimizers.SGD(learning_rate, momentum=0.9)


def fit_greedy(
    model,
    x,
    y=None,
    *,
    epochs: int | Mapping[int | str, int] = 1,
    optimizer: str | keras.Optimizer | Callable[[int | None], keras.Optimizer] = paper_sgd,
    stages: Sequence[int | str] | None = None,
    warm_start: bool = True,
    batch_size: int = 50,
    callbacks: Callable[[int | str], Sequence] | None = None,
    compile_args: Mapping | None = None,
    verbose: str | int = "auto",
    **kwargs,
) -> dict[int | str, keras.callbacks.History]:
    """Trains each glimpse in turn, then fine-tunes the last one, with a new optimizer for each stage (section 2.2.4).

    With `checkpoint`, an interrupted run resumes after the last finished epoch of any stage (see `GlimpseClassifier.fit`).

    Args:
        model: A `GlimpseClassifier`.
        x: Images, or a dataset of batches, as in `GlimpseClassifier.fit`.
        y: Labels, as in `GlimpseClassifier.fit`; `None` for a dataset. Defaults to `None`.
        epochs: Positive integer, the epochs of every stage, or a mapping from stage to epochs. Defaults to `1`.
        optimizer: Function from the number of steps of a stage (`None` if unknown) to a new optimizer; or the name of an
            optimizer or a `keras.Optimizer`, whose configuration each stage's new optimizer copies. Defaults to `paper_sgd`.
        stages: Optional sequence of the stages to train, in order. Defaults to `None`: 1, 2, ..., `num_glimpses`,
            `"fine_tune"`.
        warm_start: Boolean, whether an untrained location head and glimpse network start with the weights of the previous
            glimpse's. The paper does not say; with random weights they need far more steps. Defaults to `True`.
        batch_size: Positive integer, images per batch, for arrays. Defaults to `50`.
        callbacks: Optional function from a stage to a list of new callbacks. Defaults to `None`.
        compile_args: Optional mapping of further arguments of `compile`: `metrics`, `jit_compile`, ... Defaults to `None`.
        verbose: `"auto"`, `0`, `1` or `2`, the verbosity, as in `fit`. Defaults to `"auto"`.
        **kwargs: Further arguments of `GlimpseClassifier.fit`: `validation_data`, `checkpoint`, ...

    Returns:
        Dict from stage to the `keras.callbacks.History` of its training.

    Raises:
        ValueError: Before any training, if a stage does not exist or has no epochs, or a generator would be exhausted before
            the last stage; later, as `fit`.
        TypeError: If `callbacks` is not a function, or `optimizer` is none of the above; later, as `fit`.

    Example:
    >>> import numpy as np
    >>> from keras_glimpse import GlimpseClassifier
    >>> images, labels = np.random.rand(100, 24, 24, 1).astype("float32"), np.random.randint(0, 2, 100)
    >>> model = GlimpseClassifier(num_classes=2, low_res_size=6, patch_size=6, hidden_units=20)
    >>> list(fit_greedy(model, images, labels, epochs={1: 2, 2: 2, "fine_tune": 1}, verbose=0))
    [1, 2, 'fine_tune']

    Reference: Ranzato, "On Learning Where To Look", 2014, section 2.2.4.
    """
    stages = all_stages(model.num_glimpses) if stages is None else list(stages)
    epochs = dict.fromkeys(stages, epochs) if isinstance(epochs, numbers.Integral) else dict(epochs)
    for stage in stages:
        Stage.parse(stage, model.num_glimpses)
        if epochs.get(stage, 0) < 1:
            raise ValueError(f"epochs must be at least 1 for every stage of {stages}; got {epochs}.")
    if callbacks is not None and not callable(callbacks):
        raise TypeError("callbacks must be a function from a stage to a list: each stage needs callbacks of its own.")
    new_optimizer = _optimizer_maker(optimizer)
    if hasattr(x, "__next__") and sum(epochs[stage] for stage in stages) > 1 and not kwargs.get("steps_per_epoch"):
        raise ValueError("A generator lasts for one epoch only; pass a dataset, or an endless one and steps_per_epoch.")
    if y is not None:
        kwargs["batch_size"] = batch_size
    steps = _steps(x, y, batch_size, kwargs)
    history = {}
    for stage in stages:
        if verbose:
            print(f"Stage {stage}: {_describe(stage)}")
        if warm_start and model.built and stage not in (1, FINE_TUNE, *model.trained_glimpses):
            _copy_weights(model.location_heads, stage)
            _copy_weights(model.glimpse_nets, stage)
        total = steps and steps * epochs[stage]
        with scope_of(model):
            model.compile(new_optimizer(total), stage=stage, **(compile_args or {}))
        history[stage] = model.fit(
            x, y, epochs=epochs[stage], verbose=verbose, callbacks=callbacks and list(callbacks(stage)), **kwargs
        )
    return history


def _optimizer_maker(optimizer):
    """A function from the number of steps to a new optimizer."""
    if isinstance(optimizer, str | keras.Optimizer):
        config = keras.optimizers.serialize(keras.optimizers.get(optimizer))
        return lambda steps: keras.optimizers.deserialize(config)
    if not callable(optimizer) or isinstance(optimizer, type):  # A class would take the number of steps for a learning rate.
        raise TypeError(
            f"optimizer must be a name, a Keras optimizer, or a function from a number of steps to one; got {optimizer!r}."
        )
    return optimizer


def _copy_weights(layers, stage):
    """From the layer of the glimpse before to that of this one, if both are built alike."""
    source, target = layers[stage - 2].get_weights(), layers[stage - 1].get_weights()
    if [weights.shape for weights in source] == [weights.shape for weights in target]:
        layers[stage - 1].set_weights(source)


def _steps(x, y, batch_size, fit_args):
    """Steps of one epoch, or None if that is not known."""
    if fit_args.get("steps_per_epoch"):
        return fit_args["steps_per_epoch"]
    if y is not None and hasattr(x, "__len__"):
        return ceil(floor(len(x) * (1 - fit_args.get("validation_split", 0.0))) / batch_size)
    if isinstance(x, tf.data.Dataset):
        count = int(x.cardinality())
        return count if count > 0 else None
    return len(x) if hasattr(x, "__len__") else None


def _describe(stage):
    if stage == FINE_TUNE:
        return "the last glimpse network, at the places that the model predicts"
    return "the low-resolution network and glimpse 1" if stage == 1 else f"glimpse {stage}, all before it frozen"
