"""Keras's training hooks: `compile`, `fit`, `evaluate` and `predict` of `GlimpseClassifier`."""

import numbers
import os
import random
import warnings
from contextlib import ExitStack, contextmanager
from functools import partial
from inspect import signature
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_glimpse import _compat
from keras_glimpse._validation.arguments import (
    check_assignment,
    check_numbers,
    check_one_of,
    check_search_samples,
    check_search_size,
    check_search_stride,
)
from keras_glimpse._validation.data import checked_input, checked_names, named_batches, yields_names
from keras_glimpse._validation.images import PixelRange
from keras_glimpse.attributes import Setting
from keras_glimpse.networks import GlimpseNetworks
from keras_glimpse.ops.runtime import TENSORFLOW, for_runtime
from keras_glimpse.sources.batches import are_sources, readable
from keras_glimpse.training import execution, replicas
from keras_glimpse.training.checkpoints import Checkpoints, after_epochs, check_resumable
from keras_glimpse.training.measures import Measures
from keras_glimpse.training.metrics import UserMetrics
from keras_glimpse.training.objective import Objective
from keras_glimpse.training.stages import FINE_TUNE, Stage
from keras_glimpse.training.step import (
    evaluation_measures,
    evaluation_step,
    places_for_labels,
    training_measures,
    training_step,
)
from keras_glimpse.training.xla import check_size_is_known, chooses_xla, is_supported

NOT_CALLED = {  # Methods of Keras that its own training calls, and this one does not.
    "compute_loss": "the loss is that of eqs. 16 to 18; losses of networks (`add_loss`, regularizers) are added to it",
    "compute_metrics": "pass `metrics` to compile",
    "call": "training goes through first_look, locate and glimpse",
}


class Trainer(_compat.BuildsBeforeTraining, GlimpseNetworks):
    """Networks that are trained one stage after another (section 2.2).

    Args:
        search_size, search_stride, search_samples: the grid of candidate places.
        assignment: how one of them is chosen.
        location_weight, diversity_weight, diversity_variance, contrastive, sharpness: see `Objective`.
        **kwargs: of `GlimpseNetworks`.
    """

    search_size, search_stride = Setting(check_search_size), Setting(check_search_stride)
    search_samples = Setting(check_search_samples)
    location_weight, diversity_weight = Setting(check_numbers), Setting(check_numbers)
    diversity_variance = Setting(partial(check_numbers, above=0.0))
    contrastive = Setting(partial(check_one_of, (False, True)))
    assignment, sharpness = Setting(check_assignment), Setting(partial(check_numbers, above=0.0))

    def __init__(
        self,
        *,
        search_size: int | str,
        search_stride: int | float,
        search_samples: int | None,
        location_weight: float,
        diversity_weight: float,
        diversity_variance: float,
        contrastive: bool,
        assignment: str,
        sharpness: float,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.search_size = search_size
        self.search_stride = search_stride
        self.search_samples = search_samples
        self.location_weight = location_weight
        self.diversity_weight = diversity_weight
        self.diversity_variance = diversity_variance
        self.contrastive = contrastive
        self.assignment = assignment
        self.sharpness = sharpness
        self._stage = None
        self._trained = ()
        self._choices = {}  # Arguments of `compile`
        self._xla = "auto"
        self._plans = {}  # Of the phases "train" and "test": see `execution.plan`
        self._parts = {}  # Phases whose images are read in parts
        self.seed = 0  # Of the samples of a soft assignment

    # ---- What is trained ----

    def compile(
        self,
        optimizer: str | keras.Optimizer = "sgd",
        loss=None,
        *,
        stage: int | str = 1,
        jit_compile: bool | str = "auto",
        steps_per_execution: int | str = "auto",
        **kwargs,
    ) -> None:
        """Configures the training of one stage.

        `fit` reports these values for each batch and epoch:

        - `loss`, the minimised value, and its terms: `low_res_loss`, E0 of eq. 10; `best_loss`, En at the best candidate
          location z* (at the predicted one in fine-tuning); `offending_loss`, En at the most offending z-; `location_loss`, the
          terms of eqs. 9 and 18. With `assignment="soft"`, `best_loss` is the mean at samples of the posterior,
          `offending_loss` that at z- and at any place, both of the glimpse network alone, and `location_loss` has -log p(z) of
          a `LocationMap` for eq. 9. Losses that networks add themselves (regularizers, `add_loss`) are included in `loss` only.
          `val_loss` differs: it is the cross-entropy after the last glimpse, without those terms.
        - `accuracy_n`, after n glimpses at the predicted locations.
        - `moved_px`, the distance in pixels from the predicted location to z*, or to the most probable place.
        - `border_px`, the distance in pixels from the predicted location to the nearest image border. A value near 0 means that
          the location head has saturated.

        In callbacks with `mode="auto"`, accuracies are maximised, losses and `moved_px` minimised; `border_px` has no
        direction. Sample weights apply to the losses and to `weighted_metrics` only.

        `metrics` are updated with the prediction after the last glimpse of the stage:

        - Keras's own metrics receive probabilities (the softmax of eq. 6), logits if created with `from_logits=True`, or the
          class if they compare classes (`Accuracy`, `MeanIoU`). Labels are converted to class indices for these and for sparse
          metrics, else to distributions over classes. Binary metrics (`AUC`, `Precision`, `F1Score`, ...) treat a soft label as
          its most probable class.
        - Functions and custom metrics receive the labels unchanged, and the logits.

        Args:
            optimizer: String or `keras.Optimizer`, a new one for each stage. Defaults to `"sgd"`.
            loss: Must be `None`: the loss is that of eqs. 16 to 18. Defaults to `None`.
            stage: Integer from 1 to `num_glimpses`, the glimpse to train, with all earlier ones frozen; stage 1 also trains the
                low-resolution network. Or `"fine_tune"`, which trains the last glimpse network at the predicted locations
                (section 2.2.2); with `share_weights`, that of the glimpse trained last. `fit` sets `active_glimpses` to the
                glimpse that it trains. Defaults to `1`.
            jit_compile: Boolean or `"auto"`, whether to compile with XLA. `"auto"` uses XLA except for convolutions on a CPU,
                for several replicas, for images that differ in size, and for layers or operations that XLA does not support.
                Defaults to `"auto"`.
            steps_per_execution: Positive integer, the batches per call of the train function, or `"auto"`: many, or one if a
                callback has batch hooks, and `steps_per_epoch` is exact. An integer rounds `steps_per_epoch` up to a multiple,
                as in Keras. Defaults to `"auto"`.
            **kwargs: Other arguments of `keras.Model.compile`: `metrics`, `weighted_metrics`, `run_eagerly`, ...

        Raises:
            ValueError: If `stage` does not exist, `loss` is given or no optimizer, the optimizer has trained another stage, a
                metric is invalid or has one of the names above, `jit_compile=True` with several replicas or for images that
                differ in size, or a subclass overrides a method that training does not call.

        Example:
        >>> from keras_glimpse import GlimpseClassifier
        >>> model = GlimpseClassifier(num_classes=10)
        >>> model.compile(keras.optimizers.SGD(0.05, momentum=0.9), stage=1, metrics=["sparse_top_k_categorical_accuracy"])
        >>> model.stage
        Stage(glimpse=0, searches=True)
        """
        if optimizer is None:
            raise ValueError("compile needs an optimizer; got None.")
        if loss is not None or kwargs.pop("loss_weights", None) is not None:
            raise ValueError(f"GlimpseClassifier brings its own loss (eqs. 16 to 18); got loss={loss!r}.")
        self._check_methods()
        xla = "auto" if jit_compile == "auto" else bool(jit_compile) and is_supported(self)
        steps = 1 if steps_per_execution == "auto" else steps_per_execution
        before = self._stage, self._xla
        self._stage = Stage.parse(stage, self.num_glimpses, self._last_glimpse())
        self._xla = False  # `super().compile` must not resolve "auto" yet: the trackers of the stage are not set.
        try:
            self._check_optimizer(optimizer)
            with replicas.scope_of(self):
                trackers = self._trackers(kwargs.get("metrics"), kwargs.get("weighted_metrics"))
                super().compile(optimizer, jit_compile=None, steps_per_execution=steps, **kwargs)
        except Exception:  # The model is as it was.
            self._stage, self._xla = before
            raise
        stage = stage if isinstance(stage, str) else int(stage)
        self._choices = {"stage": stage, "jit_compile": jit_compile, "steps_per_execution": steps_per_execution}
        _compat.track(self, *trackers)
        self._functions.clear()
        self._xla = xla
        if self.assignment == "soft":
            self.seed = random.randrange(2**31)  # As Keras seeds its initializers

    def _resolve_stage(self):
        """To be called when `trained_glimpses` was loaded, by which `compile` has chosen what fine-tuning trains."""
        if self._choices.get("stage") == FINE_TUNE:
            self._stage = Stage.parse(FINE_TUNE, self.num_glimpses, self._last_glimpse())

    def _last_glimpse(self):
        """The glimpse that fine-tuning trains: where all share one network, the one that was trained last."""
        shares = self.num_glimpses > 1 and self.glimpse_nets[0] is self.glimpse_nets[-1]
        return max(self.trained_glimpses) if shares and self.trained_glimpses else self.num_glimpses

    def _trackers(self, metrics, weighted_metrics):
        tested = evaluation_measures(self.num_glimpses)
        names = dict.fromkeys([*training_measures(self.stage, offends=True), *tested])
        if metrics is weighted_metrics is None:
            return Measures(names), None  # Keras would keep the metrics of the last `compile`.
        return Measures(names), UserMetrics(metrics, weighted_metrics, self.num_classes, names)

    def _check_methods(self):
        for name, instead in NOT_CALLED.items():
            ours = next(base for base in type(self).__mro__ if base.__module__.startswith(("keras.", "keras_glimpse.")))
            if getattr(type(self), name) is not getattr(ours, name):
                raise ValueError(f"{type(self).__name__}.{name} would not be called in training: {instead}.")

    def _check_optimizer(self, optimizer):
        trained = _compat.trained_by(optimizer)
        if trained is not None and [id(v) for v in trained] != [id(v) for v in self.trainable_variables]:
            raise ValueError(
                "The optimizer has trained other variables: compile with a fresh optimizer for each stage, and after what "
                "changes the variables (`enable_lora`, `trainable`)."
            )

    def get_compile_config(self):
        return super().get_compile_config() | self._choices

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built and self.optimizer:
            self.build_optimizer()

    @property
    def stage(self) -> Stage | None:
        """The `Stage` chosen by `compile`, with fields `glimpse` (index from 0) and `searches`; `None` before."""
        return self._stage

    def traced(self):
        values, objects = super().traced()
        compiled = [self.run_eagerly] if self.compiled else []
        return [*values, self.stage, self._xla, *compiled], [*objects, *([self.optimizer] if self.compiled else [])]

    @property
    def objective(self) -> Objective:
        """The `Objective` with the current weights of the loss."""
        return Objective(self.location_weight, self.diversity_weight, self.diversity_variance, self.contrastive, self.sharpness)

    @property
    def trained_glimpses(self) -> tuple[int, ...]:
        """Tuple of integers, the glimpses (from 1) that have been trained; saved with the weights."""
        return self._trained

    @property
    def trained_layers(self) -> list[keras.Layer]:
        """List of the layers that the stage trains."""
        low_res = [self.low_res_net] if self.stage.trains_low_res else []
        head = [self.location_heads[self.stage.glimpse]] if self.stage.searches else []
        return [*low_res, *head, self.glimpse_nets[self.stage.glimpse]]

    @property
    def trainable_variables(self):
        """Variables that the stage trains, without those of layers that you froze; before `compile`, all trainable ones."""
        if self.stage is None:
            return super().trainable_variables
        return [variable for layer in self.trained_layers for variable in layer.trainable_variables]

    @property
    def non_trainable_variables(self):
        trained = {id(variable) for variable in self.trainable_variables}
        return [variable for variable in self.variables if id(variable) not in trained]

    trainable_weights, non_trainable_weights = trainable_variables, non_trainable_variables

    def add_loss(self, loss):
        raise ValueError(
            "add_loss is no part of eqs. 16 to 18: call it on a layer of one of its networks, and it is added to the loss."
        )

    @property
    def jit_compile(self) -> bool:
        """Whether XLA compiles the model. "auto" is resolved when the model is built, and again when it has changed."""
        if self._xla == "auto":
            return self.built and self.cached("xla", lambda: chooses_xla(self))
        return self._xla

    @jit_compile.setter
    def jit_compile(self, value):
        self._xla = "auto" if value is None else bool(value) and is_supported(self)

    def build(self, input_shape):
        if self._xla is True:
            check_size_is_known(tuple(input_shape)[1:])
        super().build(input_shape)

    # ---- One step, and its measures ----

    def train_step(self, data) -> dict[str, tf.Tensor]:
        """One step of training on a batch (section 2.2), and the measures since they were last reset."""
        data = _without_absent_parts(data)
        self._measure(data, *training_step(self, data))
        return self._results(self._names("train"))

    def test_step(self, data) -> dict[str, tf.Tensor]:
        """Measures a batch, and returns the measures since they were last reset."""
        data = _without_absent_parts(data)
        self._measure(data, *evaluation_step(self, data))
        return self._results(self._names("test"))

    def predict_step(self, data) -> tf.Tensor:
        """As Keras's: the logits of a batch."""
        images, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return for_runtime(self, TENSORFLOW)(images, training=False)

    def _measure(self, data, measured, logits):
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        measures, metrics = _compat.trackers(self)
        measures.update_state({name: ops.sum(values) for name, values in measured.items()}, ops.shape(images)[0])
        if metrics is not None:
            metrics.update_state(labels, logits, sample_weight=weights)

    def _names(self, phase):
        if phase == "train":
            return training_measures(self.stage, self.contrastive or self.assignment == "soft")
        return evaluation_measures(self.active_glimpses)

    def _results(self, names=None):
        """The measures of these names; outside of graphs, all that were measured since the last reset."""
        measures, metrics = _compat.trackers(self)
        return measures.result(names) | (metrics.result() if metrics is not None and metrics.built else {})

    def get_metrics_result(self) -> dict[str, tf.Tensor]:
        """What Keras shows at the end of an epoch: over all replicas, where a step's results are of one."""
        return self._results() if self.compiled else {}

    def reset_metrics(self):
        super().reset_metrics()
        for tracker in filter(None, _compat.trackers(self)):  # Whatever a subclass says that `metrics` are.
            tracker.reset_state()

    # ---- Compiled functions: Keras asks for them before it runs any of them ----

    def make_train_function(self, force=False):
        self.train_function = self._made("train", self.train_step, super().make_train_function)

    def make_test_function(self, force=False):
        self.test_function = self._made("test", self.test_step, super().make_test_function)

    def make_predict_function(self, force=False):
        def by_keras():
            super(Trainer, self).make_predict_function(force=True)
            return self.predict_function

        in_parts = self._parts.get("predict", False)
        ours = lambda: execution.predict_function(self.predict_step, self.jit_compile and not in_parts)  # noqa: E731
        make = ours if self._runs_on_one_device_in_graphs() else by_keras
        self.predict_function = self.cached(f"predict {in_parts=}", make)

    def _runs_on_one_device_in_graphs(self):
        return self.distribute_strategy.num_replicas_in_sync == 1 and not (self.compiled and self.run_eagerly)

    def _made(self, phase, step, by_keras):
        in_parts = self._parts.get(phase, False)

        def make():
            if getattr(type(self), f"{phase}_step") is not getattr(Trainer, f"{phase}_step"):
                by_keras(force=True)  # A subclass has a step of its own.
                return getattr(self, f"{phase}_function")
            compiled = {"jit_compile": self.jit_compile and not in_parts, "eager": self.run_eagerly}
            results = lambda: self._results(self._names(phase))  # noqa: E731
            return execution.step_function(self.distribute_strategy, step, results, **compiled)

        function = self.cached(f"{phase} {in_parts=}", make)
        if isinstance(function, execution.StepFunction):
            function.begin(**self._plans.get(phase, {}))
        return function

    def build_metrics(self, labels: keras.KerasTensor | None) -> None:
        """Creates the variables of the user's metrics for such labels, before any step is traced."""
        _, metrics = _compat.trackers(self)
        if metrics is not None and not metrics.built and labels is not None:
            with replicas.scope_of(self):
                metrics.build(labels, keras.KerasTensor((None, self.num_classes)))
            replicas.check_shared(self.distribute_strategy, metrics.metrics)

    def build_optimizer(self) -> None:
        """Creates the variables of the optimizer for those that the stage trains."""
        with replicas.scope_of(self):
            self.optimizer.build(self.trainable_variables)

    # ---- Keras's own methods, with checked data ----

    def fit(self, *args, checkpoint: str | os.PathLike | None = None, **kwargs) -> keras.callbacks.History:
        """Trains the stage chosen by `compile`, as `keras.Model.fit` does; `fit_greedy` trains all stages.

        Args:
            *args: Arguments of `keras.Model.fit`, in its order: `x`, `y`, `batch_size`, `epochs`, ... `x` is an array of images
                `[n, height, width, channels]`, of floats or unsigned integers, or a `tf.data.Dataset`, `keras.utils.PyDataset`
                or generator of batches `(images, labels)` or `(images, labels, sample_weight)`. The batches of a dataset may
                differ in the size of their images, if its `element_spec` says so. Labels are class indices `[n]` or `[n, 1]`,
                one-hot, or soft labels `[n, num_classes]` that sum to 1.
            checkpoint: Optional string or path of a folder. The state of each stage is saved there after every epoch (see
                `Checkpoints`). If the process is killed, running the same program again resumes after the last finished epoch,
                with bit-identical weights if it calls `keras.utils.set_random_seed` first. Finished stages are not trained
                again. Defaults to `None`.
            **kwargs: Arguments of `keras.Model.fit` by name: `validation_data`, `callbacks`, `sample_weight`, ...

        Returns:
            A `keras.callbacks.History`; its `history` has the values listed in `compile`.

        Raises:
            ValueError: If images, labels or sample weights have invalid shapes or values, the model is not compiled, no layer
                of the stage is trainable, or with `checkpoint`, `steps_per_epoch` does not match the data.
            TypeError: If images or labels have an invalid type.

        Example:
        >>> from keras_glimpse import GlimpseClassifier
        >>> images, labels = np.random.rand(64, 24, 24, 1).astype("float32"), np.random.randint(0, 2, 64)
        >>> model = GlimpseClassifier(num_classes=2, low_res_size=6, patch_size=6, hidden_units=20)
        >>> model.compile(stage=1)
        >>> history = model.fit(images, labels, epochs=2, verbose=0)
        >>> len(history.history["loss"])
        2
        """
        given = _arguments(super().fit, args, kwargs)
        self._check_compiled("fit")
        with self._reading("train", given["x"]) as given["x"], ExitStack() as stack:
            self._parts["test"] = self._parts["train"]  # Of a validation split
            if isinstance(given["validation_data"], tuple | list) and len(given["validation_data"]) > 1:
                images, *rest = given["validation_data"]
                given["validation_data"] = (stack.enter_context(self._reading("test", images)), *rest)
            elif given["validation_data"] is not None:
                stack.enter_context(self._reading("test", given["validation_data"]))
            return self._fit(given, checkpoint)

    def _fit(self, given, checkpoint):
        x, y, image = self._checked_and_built(
            given["x"], given["y"], "the training data", given["sample_weight"], phase="train"
        )
        if y is not None and given["shuffle"]:
            replicas.check_same_seed(self.distribute_strategy)
        given["validation_data"] = self._checked_validation(given["validation_data"])
        if y is None and not isinstance(x, keras.utils.PyDataset):
            given["shuffle"] = False  # Keras warns that it cannot shuffle such data, asked to or not.
        saved = None
        if checkpoint is not None:
            x, saved = self._resume(x, checkpoint, given)
        with named_batches():
            if self.built:
                self._begin_training(image)
            self._plan("train", given["callbacks"], given["steps_per_epoch"])
            if not isinstance(given["callbacks"], keras.callbacks.CallbackList):
                given["callbacks"] = [*keras.tree.flatten(given["callbacks"] or []), RetraceAfterChange()]
            history = super().fit(**given | {"x": x, "y": y})
        if saved:
            history.history, history.epoch = saved.history, list(range(saved.epochs))
        return history

    @contextmanager
    def _reading(self, phase, images):
        """What graphs of a phase are given for images: names of those that are read in parts, while this lasts."""
        before, self._parts[phase] = self._parts.get(phase, False), False
        try:
            with readable(), ExitStack() as stack:
                if are_sources(images):
                    self._begin_reading(phase)
                    images = stack.enter_context(self.named(images))
                elif phase == "predict" and yields_names(images):
                    self._begin_reading(phase)
                    images = checked_names(images)
                yield images
        finally:
            self._parts[phase] = before  # A callback may evaluate other images.

    def _begin_reading(self, phase):
        """Notes that images of a phase are read in parts."""
        if self._xla is True:
            raise ValueError("jit_compile=True cannot be for images that are read in parts: XLA does not read files.")
        self.check_reads_parts()
        self._parts[phase] = True

    def _checked_validation(self, data):
        if isinstance(data, tuple | list) and len(data) > 1:
            images, labels, _ = self._checked(*data[:2], "the validation data", *data[2:], phase="test")
            return (images, labels, *data[2:])
        return None if data is None else self._checked(data, None, "the validation data", phase="test")[0]

    def _begin_training(self, image):
        """Checks that there are variables to train, and records the glimpse and the image dtype that are trained."""
        if not self.trainable_variables:
            raise ValueError(f"There is nothing to train in stage {self._choices['stage']!r}: all its layers are frozen.")
        self._check_optimizer(self.optimizer)
        self._active = self.stage.glimpse + 1
        self._trained = tuple(sorted({*self._trained, self._active}))
        self.temperatures = None  # They were of other weights.
        if image is None or not (image.dtype.is_unsigned or image.dtype == tf.string):
            return
        if self.preprocess is None:
            self._pixels.largest = 1.0
        elif np.max(self.prepare(tf.fill((1, *(side or 512 for side in self.image_shape)), 255.0))) > PixelRange.PLAUSIBLE:
            warnings.warn(
                "The networks are given bytes as floats from 0 to 255, since `preprocess` does not scale them: add Rescaling.",
                stacklevel=2,
            )

    def _resume(self, x, checkpoint, given):
        """Restores the checkpoint of this stage; returns the data positioned after it, and the callback that saves the next
        ones.
        """
        check_resumable(x, given["y"], given["batch_size"], given["steps_per_epoch"])
        saved = Checkpoints(Path(checkpoint) / f"stage_{self._choices['stage']}")
        given["initial_epoch"] = saved.restore(self)
        given["callbacks"] = [*keras.tree.flatten(given["callbacks"] or []), saved]
        is_finished = given["initial_epoch"] >= given["epochs"]
        return after_epochs(x, saved.epochs, given["steps_per_epoch"], is_finished), saved

    def evaluate(self, *args, **kwargs):
        """Computes the loss and accuracies at the predicted locations, as `keras.Model.evaluate` does.

        Args:
            *args: Arguments of `keras.Model.evaluate`, in its order: `x`, `y`, `batch_size`, ... Images and labels as in `fit`.
            **kwargs: Arguments of `keras.Model.evaluate` by name: `verbose`, `steps`, `return_dict`, ...

        Returns:
            List of floats; with `return_dict=True`, a dict with `loss` (the cross-entropy after the last glimpse), `accuracy_n`
            after n = 0, 1, ..., `active_glimpses` glimpses, `border_px`, and the metrics passed to `compile`.

        Raises:
            ValueError: If images, labels or sample weights have invalid shapes or values, or the model is not compiled.
            TypeError: If images or labels have an invalid type.

        Example:
        >>> from keras_glimpse import GlimpseClassifier
        >>> images, labels = np.random.rand(64, 24, 24, 1).astype("float32"), np.random.randint(0, 2, 64)
        >>> model = GlimpseClassifier(num_classes=2, low_res_size=6, patch_size=6, hidden_units=20)
        >>> model.compile(stage=1)
        >>> sorted(model.evaluate(images, labels, return_dict=True, verbose=0))
        ['accuracy_0', 'accuracy_1', 'accuracy_2', 'border_px', 'loss']
        """
        of_fit = _compat.pop_arguments_of_fit(kwargs)  # Which calls this with what it has checked.
        given = _arguments(super().evaluate, args, kwargs)
        given |= given.pop("kwargs", {})
        self._check_compiled("evaluate")
        if of_fit:
            return self._evaluate(given, of_fit)
        with self._reading("test", given["x"]) as x:
            x, given["y"], _ = self._checked_and_built(x, given["y"], "the test data", given["sample_weight"], phase="test")
            given["x"] = x
            return self._evaluate(given, of_fit)

    def _evaluate(self, given, of_fit):
        with named_batches():
            self._plan("test", given["callbacks"], given["steps"])
            return super().evaluate(**given, **of_fit)

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """Computes the class logits (eq. 6), as `keras.Model.predict` does.

        Args:
            x: Array of images `[n, height, width, channels]`, of floats or unsigned integers; or a `tf.data.Dataset`,
                `keras.utils.PyDataset` or generator of batches of images.
            batch_size: Positive integer, images per batch, for an array. Defaults to `None`, which is `32`.
            verbose: `"auto"`, `0`, `1` or `2`, the verbosity. Defaults to `"auto"`.
            steps: Optional positive integer, the number of batches to read. Defaults to `None`, all of them.
            callbacks: Optional list of `keras.callbacks.Callback`. Defaults to `None`.

        Returns:
            Float32 array `[n, num_classes]`: the logits after `active_glimpses` glimpses, divided by their temperature. Their
            softmax is the probabilities.

        Raises:
            ValueError: If there are no images, or not of the shape that the model was built for.
            TypeError: If `x` is not one array of floats, uint8 or uint16.

        Example:
        >>> from keras_glimpse import GlimpseClassifier
        >>> model = GlimpseClassifier(num_classes=10)
        >>> model.predict(np.zeros((3, 48, 48, 1), "float32"), verbose=0).shape
        (3, 10)
        """
        with self._reading("predict", x) as x:
            return self._predict(x, batch_size, verbose, steps, callbacks)

    def _predict(self, x, batch_size, verbose, steps, callbacks):
        in_parts = self._parts["predict"]
        if not in_parts and (hasattr(x, "shape") or isinstance(x, list | tuple | dict | str | numbers.Number | None)):
            self.check_images(x, at_least=1)
            self.see_pixels(x)
        own = self.steps_per_execution
        several = self._steps_per_call() == "auto" and self._runs_on_one_device_in_graphs()
        counted = steps or keras.config.max_steps_per_epoch() or execution.watches_steps(callbacks, "predict")
        if several and not counted and not in_parts and execution.holds_several(self.image_shape, x, batch_size):
            self.steps_per_execution = execution.STEPS_PER_CALL
            if not isinstance(callbacks, keras.callbacks.CallbackList):
                callbacks = [execution.PredictProgress(), *keras.tree.flatten(callbacks or [])]
        try:
            return super().predict(x, batch_size, verbose, steps, callbacks)
        finally:
            self.steps_per_execution = own

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """Runs one training step on one batch, as `keras.Model.train_on_batch` does.

        Args:
            x: Array of images `[batch, height, width, channels]`, of floats or unsigned integers.
            y: Array of labels, as in `fit`.
            sample_weight: Optional array `[batch]` or `[batch, 1]` of weights. Defaults to `None`.
            class_weight: Optional dict from class index to weight. Defaults to `None`.
            return_dict: Boolean, whether to return a dict instead of a list. Defaults to `False`.

        Returns:
            List or dict of the values listed in `compile`, averaged since they were last reset.

        Raises:
            ValueError: If the data have invalid shapes or values, or the model is not compiled.
            TypeError: If images or labels have an invalid type.

        Example:
        >>> from keras_glimpse import GlimpseClassifier
        >>> images, labels = np.random.rand(16, 24, 24, 1).astype("float32"), np.random.randint(0, 2, 16)
        >>> model = GlimpseClassifier(num_classes=2, low_res_size=6, patch_size=6, hidden_units=20)
        >>> model.compile(stage=1)
        >>> "accuracy_1" in model.train_on_batch(images, labels, return_dict=True)
        True
        """
        self._check_compiled("train_on_batch")
        with self._reading("train", x) as x:
            x, y, image = self._checked_and_built(x, y, "the batch", sample_weight, in_memory=True)
            self._begin_training(image)
            return super().train_on_batch(x, y, sample_weight, class_weight, return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """Evaluates the model on one batch, as `keras.Model.test_on_batch` does.

        Args:
            x: Array of images `[batch, height, width, channels]`, of floats or unsigned integers.
            y: Array of labels, as in `fit`.
            sample_weight: Optional array `[batch]` or `[batch, 1]` of weights. Defaults to `None`.
            return_dict: Boolean, whether to return a dict instead of a list. Defaults to `False`.

        Returns:
            List or dict of the values of `evaluate`, averaged since they were last reset.

        Raises:
            ValueError: If the data have invalid shapes or values, or the model is not compiled.
            TypeError: If images or labels have an invalid type.

        Example:
        >>> from keras_glimpse import GlimpseClassifier
        >>> images, labels = np.random.rand(16, 24, 24, 1).astype("float32"), np.random.randint(0, 2, 16)
        >>> model = GlimpseClassifier(num_classes=2, low_res_size=6, patch_size=6, hidden_units=20)
        >>> model.compile(stage=1)
        >>> sorted(model.test_on_batch(images, labels, return_dict=True))
        ['accuracy_0', 'accuracy_1', 'accuracy_2', 'border_px', 'loss']
        """
        self._check_compiled("test_on_batch")
        with self._reading("test", x) as x:
            x, y, _ = self._checked_and_built(x, y, "the batch", sample_weight, in_memory=True)
            return super().test_on_batch(x, y, sample_weight, return_dict)

    def predict_on_batch(self, x):
        """Computes the class logits (eq. 6) of one batch, as `keras.Model.predict_on_batch` does.

        Args:
            x: Array of images `[batch, height, width, channels]`, of floats or unsigned integers.

        Returns:
            Float32 array `[batch, num_classes]`: the logits after `active_glimpses` glimpses.

        Raises:
            ValueError: If there are no images, or not of the shape that the model was built for.
            TypeError: If `x` is not one array of floats, uint8 or uint16.

        Example:
        >>> from keras_glimpse import GlimpseClassifier
        >>> model = GlimpseClassifier(num_classes=10)
        >>> model.predict_on_batch(np.zeros((3, 48, 48, 1), "float32")).shape
        (3, 10)
        """
        with self._reading("predict", x) as x:
            if not self._parts["predict"]:
                self.check_images(x, at_least=1)
                self.see_pixels(x)
            return super().predict_on_batch(x)

    def best_places(self, images, labels, glimpse: int = 1) -> np.ndarray:
        """Computes where training would look, given the labels: z* of eq. 12, or the most probable place of a soft assignment.

        If these places are on the objects and the predicted ones, of `look`, are not, then the location head has not learned
        enough; if they are not, then the search or the glimpse network.

        Args:
            images: Array of images `[n, height, width, channels]`, processed as one batch.
            labels: Array of labels, as in `fit`.
            glimpse: Positive integer, the glimpse whose place is searched. Defaults to `1`.

        Returns:
            Float32 array `[n, 2]`: `(y, x)` in [0, 1].

        Raises:
            ValueError: If there is no such glimpse, or the data have invalid shapes or values.
            TypeError: If images or labels have an invalid type.

        Example:
        >>> from keras_glimpse import GlimpseClassifier
        >>> images, labels = np.random.rand(16, 24, 24, 1).astype("float32"), np.random.randint(0, 2, 16)
        >>> model = GlimpseClassifier(num_classes=2, low_res_size=6, patch_size=6, hidden_units=20)
        >>> model.best_places(images, labels).shape
        (16, 2)
        """
        stage = Stage.parse(glimpse, self.num_glimpses)
        with self._reading("test", images) as images:
            images, labels, _ = self._checked_and_built(images, labels, "the batch", None, in_memory=True)
            find = partial(places_for_labels, self, stage)
            best = self.cached(f"best_places {glimpse}", lambda: tf.function(find, reduce_retracing=True, autograph=False))
            return best(tf.convert_to_tensor(images), ops.convert_to_tensor(labels)).numpy()

    def _plan(self, phase, callbacks, steps):
        self._plans[phase] = execution.plan(phase, callbacks, steps, self._steps_per_call())

    def _steps_per_call(self):
        """`steps_per_execution`, which may have been set since `compile`."""
        is_auto = self._choices.get("steps_per_execution", "auto") == "auto" and self.steps_per_execution == 1
        return "auto" if is_auto else self.steps_per_execution

    def _check_compiled(self, method):
        if not self.compiled:
            raise ValueError(f"{method} needs a compiled model: call compile(optimizer, stage=...) before.")

    def _build_for(self, shape):
        with replicas.scope_of(self):
            super()._build_for(shape)

    def _checked_and_built(self, *data, **kwargs):
        """`_checked`, and the model is built for such images if it was not."""
        x, y, image = self._checked(*data, **kwargs)
        if not self.built and image is not None:
            with replicas.scope_of(self):
                self.build((None, *image.shape))
        return x, y, image

    def _checked(self, x, y, name, sample_weight=None, in_memory=False, phase=None):
        shapes = self.image_shape, self.least_sides
        data = checked_input(x, y, sample_weight, self.num_classes, *shapes, name, self._pixels, in_memory)
        if phase and data[2] is not None and data[2].dtype == tf.string:
            self._begin_reading(phase)
            self.check_reads_names()
        if self.distribute_strategy.num_replicas_in_sync > 1 and isinstance(data[0], tf.data.Dataset):
            return (replicas.shared_by_hosts(data[0]), *data[1:])
        return data


class RetraceAfterChange(keras.callbacks.Callback):
    """Retraces the step if an earlier callback has set an attribute of the model between two epochs."""

    def on_epoch_begin(self, epoch, logs=None):
        self.model.make_train_function()


def _arguments(method, args, kwargs):
    """The arguments of a call by name, with defaults."""
    given = signature(method).bind(*args, **kwargs)
    given.apply_defaults()
    return given.arguments


def _without_absent_parts(data):
    """Replaces by `None` the parts of a batch that Keras passes as `tf.experimental.Optional`: a generator yielded `None`."""
    return keras.tree.map_structure(lambda part: None if isinstance(part, tf.experimental.Optional) else part, data)
