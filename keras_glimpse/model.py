"""`GlimpseClassifier`: the whole system of the paper as one Keras model."""

from collections.abc import Sequence
from types import SimpleNamespace

import keras
import tensorflow as tf
from keras import ops

from keras_glimpse import acceleration, training
from keras_glimpse.checks import check_one_of, check_positive, checked_input, named_batches
from keras_glimpse.cropping import portable_crops
from keras_glimpse.evidence import AVERAGING, LOCATION_INPUTS, Evidence, combine, for_location
from keras_glimpse.geometry import check_image_shape
from keras_glimpse.layers import GlimpseNet, LocationHead, LowResNet, MultiScaleCrop
from keras_glimpse.measures import Measures
from keras_glimpse.stage import Stage


@keras.saving.register_keras_serializable(package="keras_glimpse")
class GlimpseClassifier(keras.Model):
    """Classifies images by a thumbnail and a few glimpses at full resolution, at places it learns by itself.

    Defaults are the paper's for 48x48 images, except `location_weight`: with 100 as printed, and the learning rate
    printed with it (0.05), the location head saturates within the first sweep; with 10 it does not.

    Args:
        num_classes: number of classes, C.
        num_glimpses: number of glimpses after the thumbnail.
        low_res_size: side of the thumbnail in pixels, or `(rows, columns)`.
        patch_size: side of a patch in pixels, w.
        scales: the patches of a glimpse: how many image pixels make one of their pixels.
        hidden_units: units of the hidden layer, or of each, in all networks.
        search_size: side of the grid of candidate places (odd); 3 means 3x3.
        search_stride: pixels between candidates.
        location_weight: lambda, what a candidate pays for its distance from the prediction (eq. 9).
        diversity_weight: gamma, what it pays for being near an earlier glimpse (eq. 18); 0 for no such term.
        diversity_variance: sigma^2 of eq. 18.
        contrastive: train on the most offending place too (eqs. 15 and 16).
        parallel: predict all places from the thumbnail alone; or, an integer M, M places at a time (section 2.2.3).
        share_weights: one glimpse network for all glimpses; each keeps a location head of its own.
        averaging: "paper" (eq. 6) or "uniform".
        location_input: "logits" (eq. 8) or "probabilities": what location heads are told of the class.
        gated_location: gate the features of the location heads by the class evidence (section 2.2.3).
        gated_glimpse: gate the features of the glimpse networks by the location (section 2.2.3).
        downsample: "area", "strided" or "bilinear" thumbnails.
        low_res_net: a layer or model of your own that maps images to `(hidden, logits)`, instead of `LowResNet`.
        glimpse_net: one of your own that maps patches to logits, instead of `GlimpseNet`: cloned for each glimpse, or a list
            with one for each.

    Call arguments:
        images: `[batch, height, width, channels]`, floats as you scaled them or unsigned integers (scaled to [0, 1]).

    Returns:
        `[batch, num_classes]`, float32: the logits of eq. 6 after the last glimpse.

    Raises:
        ValueError: an argument out of its range, or images that a patch or the thumbnail does not fit in.

    Example:
    >>> import numpy as np
    >>> images, labels = np.random.rand(64, 32, 32, 3).astype("float32"), np.random.randint(0, 4, 64)
    >>> model = GlimpseClassifier(num_classes=4, num_glimpses=1, low_res_size=8, patch_size=8)
    >>> model.compile(keras.optimizers.SGD(0.05, momentum=0.9), stage=1)
    >>> history = model.fit(images, labels, batch_size=32, verbose=0)
    >>> model.predict(images, verbose=0).shape
    (64, 4)

    Reference: Ranzato, "On Learning Where To Look", 2014.
    """

    def __init__(
        self,
        num_classes: int,
        num_glimpses: int = 2,
        *,
        low_res_size: int | Sequence[int] = 12,
        patch_size: int = 12,
        scales: Sequence[int] = (1, 2),
        hidden_units: int | Sequence[int] = 500,
        search_size: int = 3,
        search_stride: int = 2,
        location_weight: float = 10.0,
        diversity_weight: float = 0.01,
        diversity_variance: float = 0.002,
        contrastive: bool = True,
        parallel: bool | int = False,
        share_weights: bool = False,
        averaging: str = "paper",
        location_input: str = "logits",
        gated_location: bool = False,
        gated_glimpse: bool = False,
        downsample: str = "area",
        low_res_net: keras.Layer | None = None,
        glimpse_net: keras.Layer | Sequence[keras.Layer] | None = None,
        **kwargs,
    ):
        super().__init__(**{"autocast": False, **kwargs})  # Images keep the precision they came in.
        check_positive(num_classes=num_classes, num_glimpses=num_glimpses, search_size=search_size)
        check_positive(search_stride=search_stride, diversity_variance=diversity_variance)
        check_one_of(AVERAGING, averaging=averaging)
        check_one_of(LOCATION_INPUTS, location_input=location_input)
        if search_size % 2 == 0:
            raise ValueError(f"search_size must be odd, so that the prediction is a candidate; got {search_size}.")
        self.num_classes = num_classes
        self.num_glimpses = num_glimpses
        self.search_size = search_size
        self.search_stride = search_stride
        self.location_weight = location_weight
        self.diversity_weight = diversity_weight
        self.diversity_variance = diversity_variance
        self.contrastive = contrastive
        self.group_size = {False: 1, True: num_glimpses}[parallel] if isinstance(parallel, bool) else parallel
        self.averaging = averaging
        self.location_input = location_input
        self.gated_glimpse = gated_glimpse
        self._plain_config = {
            "low_res_size": low_res_size,
            "patch_size": patch_size,
            "scales": tuple(scales),
            "hidden_units": hidden_units,
            "parallel": parallel,
            "share_weights": share_weights,
            "gated_location": gated_location,
            "downsample": downsample,
        }
        self._own = {"low_res_net": low_res_net is not None, "glimpse_net": glimpse_net is not None}

        policy = self.dtype_policy
        self.crop = MultiScaleCrop(patch_size, scales, dtype=policy)
        self.low_res_net = low_res_net or LowResNet(num_classes, low_res_size, hidden_units, downsample, dtype=policy)
        self.location_heads = [LocationHead(gated_location, dtype=policy) for _ in range(num_glimpses)]
        template = glimpse_net or GlimpseNet(num_classes, hidden_units, gated_glimpse, dtype=policy)
        self.glimpse_nets = _one_for_each_glimpse(template, num_glimpses, share_weights)
        self.image_shape = None
        self.stage = None
        self._look_function = tf.function(self._look, reduce_retracing=True)

    # ---- Inference, section 2.1: one glimpse at a time, then all of them ----

    def first_look(self, images, training=False) -> Evidence:
        """The thumbnail, through the low-resolution network (eq. 1)."""
        hidden, logits = self.low_res_net(images, training=training)
        return Evidence(hidden, ops.cast(logits, "float32"))

    def locate(self, evidence: Evidence):
        """Where the next glimpse looks, `[batch, 2]` (eqs. 3 and 8)."""
        n = len(evidence.glimpses)
        seen = evidence._replace(glimpses=evidence.glimpses[: n - n % self.group_size])
        return self.location_heads[n](evidence.hidden, for_location(seen, self.location_input, self.averaging))

    def glimpse(self, evidence: Evidence, patches, location, training=False) -> Evidence:
        """Adds what the next glimpse network makes of `patches` (eqs. 4 and 7)."""
        net = self.glimpse_nets[len(evidence.glimpses)]
        where = (location,) if self.gated_glimpse else ()
        logits = ops.cast(net(patches, *where, training=training), "float32")
        return evidence._replace(glimpses=(*evidence.glimpses, logits))

    def combine(self, evidence: Evidence):
        """The class logits after the glimpses so far, `[..., num_classes]` (eqs. 5 and 6)."""
        return combine(evidence, self.averaging)

    def try_glimpse(self, evidence: Evidence, patches, places, training=False):
        """The class logits `[batch, n, num_classes]` if the next glimpse were `patches` `[batch, n, ...]` at `places`."""
        flat = [ops.reshape(values, (-1, *values.shape[2:])) for values in (patches, places)]
        output = self.glimpse(evidence, *flat, training=training).glimpses[-1]
        output = ops.reshape(output, (-1, patches.shape[1], self.num_classes))
        before = [logits[:, None] for logits in evidence.glimpses]
        return self.combine(Evidence(None, evidence.low_res[:, None], (*before, output)))

    def _look(self, images, training=False):
        evidence = self.first_look(images, training)
        logits, locations, patches = [self.combine(evidence)], [], []
        for _ in range(self.num_glimpses):
            locations.append(self.locate(evidence))
            patches.append(self.crop(images, locations[-1]))
            evidence = self.glimpse(evidence, patches[-1], locations[-1], training)
            logits.append(self.combine(evidence))
        steps = {"logits": logits, "locations": locations, "patches": patches}
        return {name: ops.stack(values, axis=1) for name, values in steps.items()}

    def build(self, images_shape):
        check_image_shape(images_shape, {})
        self.image_shape = tuple(images_shape[1:])
        images = keras.KerasTensor((None, *self.image_shape), "float32")
        outputs = self.low_res_net(images)
        if not isinstance(outputs, tuple | list) or len(outputs) != 2:
            raise ValueError(f"low_res_net must return (hidden, logits); got {outputs}.")
        looked = self._look(images)  # Builds every network, its own or the user's, on what it will be given.
        if looked["logits"].shape[-1] != self.num_classes:
            raise ValueError(f"Networks must give {self.num_classes} logits; got shape {looked['logits'].shape}.")

    def call(self, images, training=False):
        return self._look(images, training)["logits"][:, -1]

    def look(self, images) -> dict:
        """Looks at images and tells what was seen where.

        Args:
            images: `[batch, height, width, channels]`.

        Returns:
            dict of float32 tensors: `logits` `[batch, num_glimpses + 1, num_classes]`, after 0, 1, ... glimpses;
            `locations` `[batch, num_glimpses, 2]`, `(y, x)` in [0, 1]; `patches` `[batch, num_glimpses, size, size,
            channels * len(scales)]`, the glimpses themselves.
        """
        images = ops.convert_to_tensor(images)
        if not self.built:
            self.build(images.shape)
        return self._look_function(images)

    # ---- Training, section 2.2 ----

    def compile(self, optimizer="sgd", *, stage=1, jit_compile="auto", steps_per_execution="auto", **kwargs):
        """Chooses what to train, and how.

        Args:
            optimizer: a Keras optimizer, fresh for each stage.
            stage: 1, 2, ..., num_glimpses: the glimpse to train, with the low-resolution network if it is the first, and
                all before it frozen; or "fine_tune" for the last glimpse network at the predicted places (section 2.2.2).
            jit_compile, steps_per_execution: as in Keras; "auto" is the fastest that works here (see `acceleration`).
            **kwargs: as in Keras: `metrics` (on the logits after the last glimpse of the stage), `run_eagerly`, ...

        Raises:
            ValueError: a stage that does not exist, or a `loss`: the loss is the paper's.
        """
        if kwargs.get("loss") is not None:
            raise ValueError(f"GlimpseClassifier brings its own loss (eqs. 16 to 18); got loss={kwargs['loss']!r}.")
        self.stage = Stage.parse(stage, self.num_glimpses)
        self._choices = {"stage": stage, "jit_compile": jit_compile, "steps_per_execution": steps_per_execution}
        names = training.measure_names(self.stage, self.contrastive)
        self._measures = SimpleNamespace(train=Measures(names[0]), test=Measures(names[1]))
        acceleration.compile_fast(super().compile, optimizer, jit_compile, steps_per_execution, **kwargs)

    @property
    def trainable_variables(self):
        """What the stage trains; before `compile`, everything. Layers that you froze yourself stay frozen."""
        if self.stage is None:
            return super().trainable_variables
        layers = [self.glimpse_nets[self.stage.glimpse]]
        if self.stage.searches:
            layers.insert(0, self.location_heads[self.stage.glimpse])
        if self.stage.trains_low_res:
            layers.insert(0, self.low_res_net)
        return [variable for layer in layers for variable in layer.trainable_variables]

    @property
    def non_trainable_variables(self):
        trained = {id(variable) for variable in self.trainable_variables}
        return [variable for variable in self.variables if id(variable) not in trained]

    trainable_weights, non_trainable_weights = trainable_variables, non_trainable_variables

    def reset_metrics(self):
        super().reset_metrics()
        for measures in (self._measures.train, self._measures.test):
            measures.reset_state()

    def train_step(self, data):
        measured, logits = training.train_step(self, data)
        return self._report(self._measures.train, measured, data, logits)

    def test_step(self, data):
        measured, logits = training.test_step(self, data)
        return self._report(self._measures.test, measured, data, logits)

    def _report(self, measures, measured, data, logits):
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        means = [ops.mean(measured[name]) for name in measures.names]
        measures.update_state(means, ops.shape(images)[0])
        if self._compile_metrics is not None:
            self._compile_metrics.update_state(labels, logits, sample_weight=weights)
            return measures.result() | self._compile_metrics.result()
        return measures.result()

    def fit(self, x=None, y=None, *args, **kwargs):
        """As `keras.Model.fit`; images and labels are checked first, and while they are read (see `checks`)."""
        x, y, shape = checked_input(x, y, self.num_classes, self.image_shape)
        if shape is not None and not self.built:
            self.build(tuple(shape))
        if isinstance(x, tf.data.Dataset):
            kwargs.setdefault("shuffle", False)  # Keras warns that it cannot shuffle a dataset, asked to or not.
        with named_batches():
            return super().fit(x, y, *args, **kwargs)

    # ---- Saving and exporting ----

    def export(self, *args, **kwargs):
        """As `keras.Model.export`, with operations that every runtime has."""
        self(tf.zeros((1, *self.image_shape)))  # Keras exports only models that were called; training does not call them.
        with portable_crops():
            return super().export(*args, **kwargs)

    def get_config(self):
        own = {"low_res_net": self.low_res_net, "glimpse_net": self.glimpse_nets}
        names = ("num_classes", "num_glimpses", "search_size", "search_stride", "location_weight", "diversity_weight")
        names += ("diversity_variance", "contrastive", "averaging", "location_input", "gated_glimpse")
        config = super().get_config() | self._plain_config | {name: getattr(self, name) for name in names}
        return config | {name: keras.saving.serialize_keras_object(own[name]) for name in own if self._own[name]}

    @classmethod
    def from_config(cls, config):
        nets = {name: config[name] for name in ("low_res_net", "glimpse_net") if name in config}
        return cls(**config | {name: keras.saving.deserialize_keras_object(net) for name, net in nets.items()})

    def get_compile_config(self):
        return super().get_compile_config() | (self._choices if self.stage else {})

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built and self.optimizer:
            self.optimizer.build(self.trainable_variables)


def _one_for_each_glimpse(net, num_glimpses, share_weights):
    """A network for each glimpse: those given, the same one for all, or `net` and clones of it."""
    if isinstance(net, list | tuple):
        if len(net) != num_glimpses:
            raise ValueError(f"glimpse_net must be one network or {num_glimpses}, one a glimpse; got {len(net)}.")
        return list(net)
    if share_weights:
        return [net] * num_glimpses
    config = net.get_config()
    names = [f"{config['name']}_glimpse_{n}" for n in range(2, num_glimpses + 1)]
    return [net] + [type(net).from_config(config | {"name": name}) for name in names]
