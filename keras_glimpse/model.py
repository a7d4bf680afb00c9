"""`GlimpseClassifier`: the whole system of the paper as one Keras model."""

import numbers
from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import ops

from keras_glimpse.checks import (
    check_images,
    check_integers,
    check_layer,
    check_numbers,
    check_one_of,
    check_search_size,
    check_spec,
    integers,
    usable,
)
from keras_glimpse.downsampling import to_unit_range
from keras_glimpse.evidence import AVERAGING, LOCATION_INPUTS, Evidence, combine, for_location
from keras_glimpse.geometry import check_image_shape
from keras_glimpse.layers import GlimpseNet, LocationHead, LowResNet, MultiScaleCrop
from keras_glimpse.networks import one_for_each_glimpse
from keras_glimpse.portable import run_by_tensorflow
from keras_glimpse.trainer import GlimpseTrainer


@keras.saving.register_keras_serializable(package="keras_glimpse")
class GlimpseClassifier(GlimpseTrainer):
    """Classifies images by a thumbnail and a few glimpses at full resolution, at places it learns by itself.

    Defaults are the paper's for 48x48 images, except `location_weight`: with 100 as printed, and the learning rate
    printed with it (0.05), the location head saturates within two epochs; with 10 it does not.

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
        share_weights: one glimpse network for all glimpses; each keeps a location head of its own. A stage trains the
            network at its own glimpse only: what it gave at earlier ones is held fixed, as section 2.2.1 has it.
        averaging: "paper" (eq. 6) or "uniform".
        location_input: "logits" (eq. 8) or "probabilities": what location heads are told of the class.
        gated_location: gate the features of the location heads by the class evidence (section 2.2.3).
        gated_glimpse: gate the features of the glimpse networks by the location (section 2.2.3).
        downsample: "area", "strided" or "bilinear" thumbnails.
        low_res_net: a layer or model of your own that maps images to `(hidden, logits)`, instead of `LowResNet`.
        glimpse_net: one of your own that maps patches to logits, instead of `GlimpseNet`: cloned for each glimpse, or a list
            with one for each. Both are given floats, whatever the images are.

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
        check_integers(2, num_classes=num_classes)
        check_integers(1, num_glimpses=num_glimpses, search_stride=search_stride)
        check_integers(0, parallel=int(parallel) if isinstance(parallel, bool) else parallel)
        check_numbers(location_weight=location_weight, diversity_weight=diversity_weight)
        check_numbers(diversity_variance=diversity_variance, above=0.0)
        check_one_of((False, True), contrastive=contrastive, share_weights=share_weights)
        check_one_of((False, True), gated_location=gated_location, gated_glimpse=gated_glimpse)
        check_layer(low_res_net=low_res_net)
        check_one_of(AVERAGING, averaging=averaging)
        check_one_of(LOCATION_INPUTS, location_input=location_input)
        check_search_size(search_size)
        self.num_classes = num_classes
        self.num_glimpses = num_glimpses
        self.search_size = search_size
        self.search_stride = search_stride
        self.location_weight = location_weight
        self.diversity_weight = diversity_weight
        self.diversity_variance = diversity_variance
        self.contrastive = contrastive
        self.group_size = num_glimpses if parallel is True else parallel or 1
        self.averaging = averaging
        self.location_input = location_input
        self.gated_glimpse = gated_glimpse
        self._plain_config = {
            "low_res_size": low_res_size,
            "patch_size": patch_size,
            "scales": integers("scales", scales),
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
        self.glimpse_nets = one_for_each_glimpse(template, num_glimpses, share_weights)
        self.image_shape = None
        self._look_function = tf.function(run_by_tensorflow()(self._look), reduce_retracing=True)

    # ---- Inference, section 2.1: one glimpse at a time, then all of them ----

    def first_look(self, images, training=False) -> Evidence:
        """The thumbnail, through the low-resolution network (eq. 1): what is known before any glimpse."""
        if self.image_shape is not None:
            check_spec(images.shape, images.dtype, self.image_shape)
        if self._own["low_res_net"]:
            images = to_unit_range(images, images.dtype)
        hidden, logits = self.low_res_net(images, training=training)
        return Evidence(hidden, ops.cast(logits, "float32"))

    def locate(self, evidence: Evidence) -> tf.Tensor:
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

    def look_again(self, images, evidence: Evidence) -> Evidence:
        """Adds the next glimpse, at the place that the model predicts."""
        location = self.locate(evidence)
        return self.glimpse(evidence, self.crop(images, location), location)

    def combine(self, evidence: Evidence) -> tf.Tensor:
        """The class logits after the glimpses so far, `[..., num_classes]` (eqs. 5 and 6)."""
        return combine(evidence, self.averaging)

    def try_glimpse(self, evidence: Evidence, patches, places, training=False) -> tf.Tensor:
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

    def build(self, input_shape):  # So named that the converter of LiteRT finds it.
        check_image_shape(input_shape, {})
        images = keras.KerasTensor((None, *input_shape[1:]), "float32")
        outputs = self.low_res_net(images)
        if not isinstance(outputs, tuple | list) or len(outputs) != 2:
            raise ValueError(f"low_res_net must return (hidden, logits); got {outputs}.")
        evidence = Evidence(outputs[0], outputs[1])
        self._check_logits("low_res_net", evidence.low_res)
        for _ in range(self.num_glimpses):  # Builds every network, the user's too, on what it will be given.
            evidence = self.look_again(images, evidence)
            self._check_logits("glimpse_net", evidence.glimpses[-1])
        self.image_shape = tuple(input_shape[1:])

    def _check_logits(self, name, logits):
        if tuple(logits.shape[1:]) != (self.num_classes,):
            raise ValueError(f"{name} must give {self.num_classes} logits; got {', '.join(map(str, logits.shape[1:]))}.")

    def call(self, images, training=False):
        return self._look(images, training)["logits"][:, -1]

    def look(self, images) -> dict[str, tf.Tensor]:
        """Looks at images and tells what was seen where.

        Args:
            images: `[batch, height, width, channels]`; all at once, so not more than fit in memory several times over.

        Returns:
            dict of float32 tensors: `logits` `[batch, num_glimpses + 1, num_classes]`, after 0, 1, ... glimpses;
            `locations` `[batch, num_glimpses, 2]`, `(y, x)` in [0, 1]; `patches` `[batch, num_glimpses, size, size,
            channels * len(scales)]`, the glimpses themselves.
        """
        check_images(images, self.image_shape)
        images = ops.convert_to_tensor(images)
        if not self.built:
            self.build(images.shape)
        # Eagerly, by a graph of its own; in another graph it must be traced anew, since that may be for another runtime.
        return self._look_function(images) if tf.executing_eagerly() else self._look(images)

    def predict(self, x, *args, **kwargs):
        """As `keras.Model.predict`: the logits of eq. 6; arrays are checked first."""
        if hasattr(x, "shape") or isinstance(x, list | tuple | dict | str | numbers.Number | None):
            check_images(x, self.image_shape, at_least=1)
        return super().predict(x, *args, **kwargs)

    # ---- Saving and exporting ----

    @property
    def inputs(self) -> list[keras.KerasTensor] | None:
        """What a functional model has, and converters ask for: the images that the model was built for."""
        return self.image_shape and [keras.KerasTensor((None, *self.image_shape), "float32", name="images")]

    def export(self, *args, **kwargs):
        """As `keras.Model.export`, with operations that every runtime has.

        Raises:
            ValueError: the model is not built.
        """
        if not self.built:
            raise ValueError("Only a model that is built can be exported: fit it, load it or call it on images first.")
        self(tf.zeros((1, *self.image_shape)))  # Keras exports only models that were called; training does not call them.
        return super().export(*args, **kwargs)

    def get_config(self):
        shared = self._plain_config["share_weights"]
        own = {"low_res_net": self.low_res_net, "glimpse_net": self.glimpse_nets[0] if shared else self.glimpse_nets}
        names = ("num_classes", "num_glimpses", "search_size", "search_stride", "location_weight", "diversity_weight")
        names += ("diversity_variance", "contrastive", "averaging", "location_input", "gated_glimpse")
        config = super().get_config() | self._plain_config | {name: getattr(self, name) for name in names}
        return config | {name: keras.saving.serialize_keras_object(own[name]) for name in own if self._own[name]}

    @classmethod
    def from_config(cls, config):
        with usable("config"):
            nets = {name: config[name] for name in ("low_res_net", "glimpse_net") if name in config}
            return cls(**config | {name: keras.saving.deserialize_keras_object(net) for name, net in nets.items()})

    def build_from_config(self, config):
        with usable("build_config"):
            super().build_from_config(config)

    def compile_from_config(self, config):
        with usable("compile_config"):
            super().compile_from_config(config)
