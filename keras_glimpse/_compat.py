"""Every private name of Keras and TensorFlow that we touch, each with the reason. `tests/test_compat.py` watches them."""

from types import SimpleNamespace

import keras
import tensorflow as tf
from keras.src import backend
from keras.src.backend.common import global_state
from keras.src.random import seed_generator
from keras.src.trainers.compile_utils import CompileMetrics as CompileMetrics
from keras.src.trainers.compile_utils import MetricsList as MetricsList
from keras.src.utils.tracking import no_automatic_dependency_tracking
from tensorflow.python.framework import config


def outermost_layer() -> keras.Layer | None:
    """The layer that was called from outside of all layers, if we are inside its call.

    Keras tells a layer whether it is trained, but not whether by itself or as a part of something larger.
    """
    context = global_state.get_global_attribute("current_call_ctx")
    return context and context.entry_layer


def keras_random_state() -> keras.Variable:
    """The state of the generator that `keras.random` and initializers draw from if they are given no seed."""
    return seed_generator.global_seed_generator().state


def is_compiled_by_xla() -> bool:
    """Whether the graph being traced is, or lies inside, a `tf.function(jit_compile=True)`."""
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    while graph is not None:
        context = graph._get_control_flow_context()  # TensorFlow offers no public way to ask.
        while context is not None:
            if context.IsXLAContext():
                return True
            context = context.outer_context
        graph = getattr(graph, "outer_graph", None)
    return False


def own_variables(layer: keras.Layer) -> list:
    """Those of a layer itself, without its sublayers: `layer.variables` walks through all of them."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def all_layers(layer: keras.Layer) -> list[keras.Layer]:
    """A layer and all layers in it, however deep: public properties show the outermost, or only those of models."""
    return layer._flatten_layers()


def deterministic_ops() -> bool:
    """Whether `tf.config.experimental.enable_op_determinism` was called. Not all such operations have XLA kernels."""
    return config.is_op_determinism_enabled()


def trained_by(optimizer) -> list | None:
    """The variables that an optimizer was built for; None for one that was not built."""
    return optimizer._trainable_variables if getattr(optimizer, "built", False) else None


def batches_seen(optimizer) -> keras.Variable:
    """How many batches an optimizer was given; the public `iterations` counts updates, each of several if it accumulates."""
    return optimizer._iterations


def profiles_steps(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback is a `TensorBoard` that was made with `profile_batch`, which it does not keep."""
    return getattr(callback, "_should_trace", False)


# ---- Metrics ----

# `CompileMetrics` is what `compile` makes of `metrics` and `weighted_metrics`. Callbacks in mode "auto" look for directions,
# `_direction`, in the `metrics` of these two classes only.


def shown_by_callbacks(name: str, direction: str | None) -> SimpleNamespace:
    """What callbacks find in the `metrics` of a `MetricsList`: a name and, for mode "auto", a direction, "up" or "down"."""
    return SimpleNamespace(name=name, **({} if direction is None else {"_direction": direction}))


@no_automatic_dependency_tracking  # Else Keras would list them twice, and save them.
def track(model, loss, metrics) -> None:
    """Puts `loss` and `metrics` where `compile` keeps its own, and where `metrics`, `reset_metrics` and callbacks look."""
    model._loss_tracker, model._compile_metrics = loss, metrics


def trackers(model) -> tuple:
    """`(loss, metrics)` as `track` left them; None for what there is not."""
    return model._loss_tracker, model._compile_metrics


def groups(metrics: CompileMetrics) -> tuple[list, list]:
    """The metrics without weights and those with, of a model that has one output."""
    flat = metrics._flat_metrics, metrics._flat_weighted_metrics
    return tuple([metric for group in lists if group for metric in group.metrics] for lists in flat)


def averaged(metric):
    """The function, or loss, whose mean a `keras.metrics.MeanMetricWrapper` is: Keras makes one of every function."""
    return metric._fn


def takes_logits(metric) -> bool:
    """Whether a metric was made with `from_logits=True`. `AUC` keeps that as `_from_logits`; a mean, for its function."""
    kept = getattr(metric, "from_logits", False) or getattr(metric, "_from_logits", False)
    return bool(kept or getattr(metric, "_fn_kwargs", {}).get("from_logits", False))


def symbolically(function, *arguments) -> None:
    """Runs a function on `keras.KerasTensor`s: variables are made, none is changed. Models have this, metrics do not."""
    backend.compute_output_spec(function, *arguments)


def labels_of(iterator, batch) -> keras.KerasTensor | None:
    """What shape and dtype labels will have: of what `fit` iterates over, or of the batch given to `train_on_batch`."""
    batch = iterator._distributed_dataset.element_spec if batch is None else batch
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        return None
    labels = tf.nest.flatten(batch[1], expand_composites=True)[0]  # With replicas, a spec for each of them.
    if not hasattr(labels, "shape"):
        return None
    return keras.KerasTensor(tuple(labels.shape), keras.backend.standardize_dtype(labels.dtype))


class BuildsBeforeTraining:
    """A model that builds its metrics and optimizer itself before the first step of `fit`, `evaluate` and `train_on_batch`.

    Keras calls `_maybe_symbolic_build` for this. With a distribution strategy it would read a batch to learn its shape, and
    average that over the hosts, which fails (keras#20585).
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        self.build_metrics(labels_of(iterator, data_batch))
        if self._distribute_strategy is None or not self.built:
            super()._maybe_symbolic_build(iterator, data_batch)
        else:
            self.build_optimizer()


def pop_arguments_of_fit(arguments: dict) -> dict:
    """Takes out of the arguments of `evaluate` those that only `fit` passes, when it calls it for the validation data."""
    return {name: arguments.pop(name) for name in ("_use_cached_eval_dataset",) if name in arguments}


# ---- SavedModels, quantized layers and LiteRT ----


def input_quantizer(layer: keras.Layer):
    """What turns the inputs of a layer into 8-bit integers and their scale: undocumented. None for layers without."""
    return getattr(layer, "inputs_quantizer", None)


def set_input_quantizer(layer: keras.Layer, quantizer) -> None:
    layer.inputs_quantizer = quantizer


def litert_operations() -> list[str]:
    """The names of all built-in operations of LiteRT: `tf.lite` does not list them."""
    from tensorflow.lite.python.schema_py_generated import BuiltinOperator

    return [name for name in vars(BuiltinOperator) if name.isupper()]


def with_litert_metadata(content: bytes, name: str, metadata: bytes) -> bytes:
    """A LiteRT file with one more entry of metadata, which only the converter writes."""
    from tensorflow.lite.python.schema_py_generated import BufferT, MetadataT
    from tensorflow.lite.tools import flatbuffer_utils

    file = flatbuffer_utils.read_model_from_bytearray(content)
    entry, buffer = MetadataT(), BufferT()
    entry.name, entry.buffer, buffer.data = name, len(file.buffers), metadata
    file.metadata, file.buffers = [*file.metadata, entry], [*file.buffers, buffer]
    return flatbuffer_utils.convert_object_to_bytearray(file)


def weights_of(model) -> tf.Module:
    """What TensorFlow saves for a graph of a model: its weights, without Keras."""
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    return module


class Saveable:
    """A model whose variables `tf.saved_model.save` finds, in a `tf.function` that calls it.

    It finds Keras's wrappers of them only, and the converter of LiteRT takes those for other variables, which have no values:
    its file answers with whatever lay in memory.
    """

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        children = super()._trackable_children(save_type, **kwargs)
        if save_type == "savedmodel":
            children["tensorflow_variables"] = self.cached("tensorflow_variables", lambda: weights_of(self))
        return children
