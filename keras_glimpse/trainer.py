"""The Keras side of training: choosing a stage in `compile`, then `fit` and `evaluate` as everywhere in Keras."""

import os
from pathlib import Path
from types import SimpleNamespace

import keras
import tensorflow as tf
from keras import ops

from keras_glimpse import acceleration, replicas, training
from keras_glimpse.checkpoints import Checkpoints, after_epochs
from keras_glimpse.checks import checked_input, named_batches
from keras_glimpse.measures import Measures
from keras_glimpse.portable import run_by_tensorflow
from keras_glimpse.stage import Stage


class GlimpseTrainer(keras.Model):
    """What `GlimpseClassifier` adds to `keras.Model` for training one stage after another (section 2.2)."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stage = None
        self._measures = SimpleNamespace()  # none before `compile`

    def compile(
        self,
        optimizer: str | keras.Optimizer = "sgd",
        *,
        stage: int | str = 1,
        jit_compile: bool | str = "auto",
        steps_per_execution: int | str = "auto",
        **kwargs,
    ) -> None:
        """Chooses what to train, and how.

        `fit` then shows, for each batch and epoch:

        - `loss`, what is minimised, and its parts: `low_res_loss`, E0 of eq. 10; `best_loss`, Ek at z* (or at the
          predicted place, in fine-tuning); `offending_loss`, Ek at z-; `location_loss`, the terms of eqs. 9 and 18.
          `val_loss` is another thing: the cross-entropy after the last glimpse of the stage.
        - `accuracy_n`, after n glimpses, at the predicted places.
        - `moved_px`, how far z* is from the prediction, and `border_px`, how far the prediction is from the border of the
          image, in pixels: near 0, the location head has saturated and looks at the border whatever it sees.

        Sample weights count in the losses only.

        Args:
            optimizer: a Keras optimizer, fresh for each stage.
            stage: 1, 2, ..., num_glimpses: the glimpse to train, with the low-resolution network if it is the first, and
                all before it frozen; or "fine_tune" for the last glimpse network at the predicted places (section 2.2.2).
                Glimpses that no stage has trained yet still take part in `predict`; `fit_greedy` trains them all.
            jit_compile, steps_per_execution: as in Keras; "auto" is the fastest that works here (see `acceleration`).
            **kwargs: as in Keras: `metrics` (on the logits after the last glimpse of the stage), `run_eagerly`, ...

        Raises:
            ValueError: a stage that does not exist, an optimizer that trained another stage, a `loss`: it is the paper's, or
                `jit_compile=True` with several replicas.
        """
        if kwargs.get("loss") is not None:
            raise ValueError(f"GlimpseClassifier brings its own loss (eqs. 16 to 18); got loss={kwargs['loss']!r}.")
        before, self.stage = self.stage, Stage.parse(stage, self.num_glimpses)
        try:
            self._check_fresh(optimizer)
        except ValueError:
            self.stage = before
            raise
        self._choices = {"stage": stage, "jit_compile": jit_compile, "steps_per_execution": steps_per_execution}
        names = training.measure_names(self.stage, self.contrastive)
        with acceleration.scope_of(self):
            self._measures = SimpleNamespace(train=Measures(names[0]), test=Measures(names[1]))
            acceleration.compile_fast(super().compile, optimizer, jit_compile, steps_per_execution, **kwargs)

    def _check_fresh(self, optimizer):
        trained = getattr(optimizer, "_trainable_variables", None)
        if getattr(optimizer, "built", False) and [id(v) for v in trained] != [id(v) for v in self.trainable_variables]:
            raise ValueError("The optimizer has trained other variables: each stage needs a fresh optimizer.")

    @property
    def trained_layers(self) -> list[keras.Layer]:
        """The layers that the stage trains."""
        low_res = [self.low_res_net] if self.stage.trains_low_res else []
        head = [self.location_heads[self.stage.glimpse]] if self.stage.searches else []
        return [*low_res, *head, self.glimpse_nets[self.stage.glimpse]]

    @property
    def trainable_variables(self):
        """What the stage trains; before `compile`, everything. Layers that you froze yourself stay frozen."""
        if self.stage is None:
            return super().trainable_variables
        return [variable for layer in self.trained_layers for variable in layer.trainable_variables]

    @property
    def non_trainable_variables(self):
        trained = {id(variable) for variable in self.trainable_variables}
        return [variable for variable in self.variables if id(variable) not in trained]

    trainable_weights, non_trainable_weights = trainable_variables, non_trainable_variables

    def reset_metrics(self):
        super().reset_metrics()
        for measures in vars(self._measures).values():
            measures.reset_state()

    @run_by_tensorflow()
    def train_on(self, data):
        """One step of training on a batch, and its measures."""
        measured, logits = training.train_step(self, data)
        self._measure(self._measures.train, measured, data, logits)

    def train_results(self) -> dict[str, tf.Tensor]:
        """The measures since they were last reset."""
        return self._results(self._measures.train)

    def test_results(self) -> dict[str, tf.Tensor]:
        """As `train_results`, of the test measures."""
        return self._results(self._measures.test)

    def train_step(self, data):
        self.train_on(data)
        return self.train_results()

    @run_by_tensorflow()
    def test_step(self, data):
        measured, logits = training.test_step(self, data)
        self._measure(self._measures.test, measured, data, logits)
        return self.test_results()

    @run_by_tensorflow()
    def predict_step(self, data):
        return super().predict_step(data)

    def _measure(self, measures, measured, data, logits):
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        if weights is not None:
            weights = ops.cast(ops.reshape(weights, (-1,)), "float32")
            measured = {name: v * weights if name.endswith("loss") else v for name, v in measured.items()}
        measures.update_state([ops.sum(measured[name]) for name in measures.names], ops.shape(images)[0])
        if self._compile_metrics is not None:
            self._compile_metrics.update_state(labels, logits, sample_weight=weights)

    def _results(self, measures):
        return measures.result() | (self._compile_metrics.result() if self._compile_metrics is not None else {})

    def get_metrics_result(self) -> dict[str, tf.Tensor]:
        """What Keras shows at the end of an epoch: over all replicas, where a step's results are of one."""
        used = [measures for measures in vars(self._measures).values() if measures.count > 0]  # Both are reset before.
        return self._results(used[0]) if used else {}

    @property
    def _has_replicas(self):
        return self.distribute_strategy.num_replicas_in_sync > 1

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        if self._distribute_strategy is None or not self.built:
            super()._maybe_symbolic_build(iterator, data_batch)
            return
        # Keras would read a batch to learn its shape, and average it over the hosts, which fails (keras#20585).
        with acceleration.scope_of(self):
            if self._compile_metrics is not None and not self._compile_metrics.built:
                self._compile_metrics.build(keras.KerasTensor((1,), "int32"), keras.KerasTensor((1, self.num_classes)))
            self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return
        if self._has_replicas:
            self.train_function = replicas.steps_on_all(self, self.train_step, self.train_results)
            return
        super().make_train_function(force)
        if self.jit_compile and self.steps_per_execution > 1 and type(self).train_step is GlimpseTrainer.train_step:
            self.train_function = acceleration.many_steps(self, otherwise=self.train_function)

    def make_test_function(self, force=False):
        if self._has_replicas and (self.test_function is None or force):
            self.test_function = replicas.steps_on_all(self, self.test_step, self.test_results)
        else:
            super().make_test_function(force)

    def fit(
        self, x=None, y=None, *args, validation_data=None, checkpoint: str | os.PathLike | None = None, **kwargs
    ) -> keras.callbacks.History:
        """As `keras.Model.fit`; images and labels are checked first, or while they are read (see `checks`).

        Args:
            x, y, validation_data, *args, **kwargs: as in Keras.
            checkpoint: folder in which the state of each stage is kept after every epoch (see `Checkpoints`). If the process
                is killed, the same program goes on from there, to the very same weights if it calls
                `keras.utils.set_random_seed` first; a stage that was finished is not trained again.
        """
        x, y, shape = self._checked(x, y, "the training data")
        if shape is not None and not self.built:
            with acceleration.scope_of(self):
                self.build((None, *shape))
        if y is not None and kwargs.get("shuffle", True):
            replicas.check_same_seed(self.distribute_strategy)
        if isinstance(validation_data, tuple | list) and len(validation_data) > 1:
            held_out, labels, _ = self._checked(*validation_data[:2], "the validation data")
            validation_data = (held_out, labels, *validation_data[2:])
        elif validation_data is not None:
            validation_data, _, _ = self._checked(validation_data, None, "the validation data")
        if y is None and not isinstance(x, keras.utils.PyDataset):
            kwargs.setdefault("shuffle", False)  # Keras warns that it cannot shuffle such data, asked to or not.
        saved = None
        if checkpoint is not None:
            x, saved = self._go_on(x, checkpoint, kwargs)
        with named_batches():
            history = super().fit(x, y, *args, validation_data=validation_data, **kwargs)
        if saved:
            history.history, history.epoch = saved.history, list(range(saved.epochs))
        return history

    def _go_on(self, x, checkpoint, fit_args):
        """Restores what was saved of this stage; returns the data that come next, and what will save the rest."""
        saved = Checkpoints(Path(checkpoint) / f"stage_{self._choices['stage']}")
        fit_args["initial_epoch"] = saved.restore(self)
        fit_args["callbacks"] = [*(fit_args.get("callbacks") or []), saved]
        is_finished = fit_args["initial_epoch"] >= fit_args.get("epochs", 1)
        return after_epochs(x, saved.epochs, fit_args.get("steps_per_epoch"), is_finished), saved

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """As `keras.Model.evaluate`; images and labels are checked as in `fit`."""
        if not kwargs.get("_use_cached_eval_dataset"):  # `fit` calls this too, with what it has checked.
            x, y, _ = self._checked(x, y, "the test data")
        with named_batches():
            return super().evaluate(x, y, *args, **kwargs)

    def _checked(self, x, y, name):
        x, y, shape = checked_input(x, y, self.num_classes, self.image_shape, name)
        if self._has_replicas and isinstance(x, tf.data.Dataset):
            x = replicas.shared_by_hosts(x)
        return x, y, shape

    def get_compile_config(self):
        return super().get_compile_config() | (self._choices if self.stage else {})

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built and self.optimizer:
            self.optimizer.build(self.trainable_variables)
