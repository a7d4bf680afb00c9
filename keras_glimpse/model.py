"""`GlimpseClassifier`: the whole system of the paper as one Keras model."""

import os
import warnings
from collections.abc import Sequence
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_glimpse._compat import Saveable, all_layers, outermost_layer
from keras_glimpse.attributes import Fixed, Setting
from keras_glimpse.checks import (
    PixelRange,
    check_exportable,
    check_images,
    check_integers,
    check_layer,
    check_numbers,
    check_one_of,
    check_search_size,
    check_search_stride,
    check_spec,
    integers,
    usable,
)
from keras_glimpse.downsampling import to_unit_range
from keras_glimpse.evidence import AVERAGING, LOCATION_INPUTS, Evidence, combine, for_location
from keras_glimpse.geometry import check_image_shape
from keras_glimpse.layers import GlimpseNet, LocationHead, LowResNet, MultiScaleCrop
from keras_glimpse.layers.inner import KeepsInner
from keras_glimpse.networks import one_for_each_glimpse
from keras_glimpse.portable import run_by_tensorflow
from keras_glimpse.quantization import float_products, layers_to_quantize
from keras_glimpse.trainer import GlimpseTrainer


@keras.saving.register_keras_serializable(package="keras_glimpse")
class GlimpseClassifier(Saveable, KeepsInner, GlimpseTrainer):
    """Classifies images by a thumbnail and a few glimpses at full resolution, at places it learns by itself.

    Defaults are the paper's for 48x48 images, except `location_weight`: with 100 as printed, and the learning rate
    printed with it (0.05), the location head saturates within two epochs; with 10 it does not. Distances in the loss are in
    units of the image's longer side, so that the weights mean the same for images of any size.

    What is set after the model was made takes effect everywhere, at once: `search_size`, `search_stride`, the weights of the
    loss, `contrastive`, `averaging`, `location_input`, `active_glimpses`, and whatever is done to the layers. All others are
    fixed; Keras lets no layer of a model that is built be replaced.

    Args:
        num_classes: number of classes, C.
        num_glimpses: number of glimpses after the thumbnail.
        low_res_size: side of the thumbnail in pixels, or `(rows, columns)`.
        patch_size: side of a patch in pixels, w.
        scales: the patches of a glimpse: how many image pixels make one of their pixels.
        hidden_units: units of the hidden layer, or of each, in all networks.
        search_size: side of the grid of candidate places (odd); 3 means 3x3.
        search_stride: pixels between candidates; a float is a share of the image's longer side, at least 2 pixels. Default
            1/24, which is the paper's 2 pixels of 48.
        location_weight: lambda, what a candidate pays for its squared distance from the prediction, in units of the image's
            longer side (eq. 9).
        diversity_weight: gamma, what it pays for being near an earlier glimpse (eq. 18); 0 for no such term.
        diversity_variance: sigma^2 of eq. 18, in squared units of the image's longer side.
        contrastive: train on the most offending place too (eqs. 15 and 16).
        parallel: predict all places from the thumbnail alone; or, an integer M, M places at a time (section 2.2.3).
        share_weights: one glimpse network for all glimpses; each keeps a location head of its own. A stage trains the
            network at its own glimpse only: no gradient comes from earlier ones, as in section 2.2.1. But it is the same
            network, so that what it says there changes too, and with it where later glimpses look.
        averaging: "paper" (eq. 6) or "uniform".
        location_input: "logits" (eq. 8) or "probabilities": what location heads are told of the class.
        gated_location: gate the features of the location heads by the class evidence (section 2.2.3).
        gated_glimpse: gate the features of the glimpse networks by the location (section 2.2.3).
        downsample: "area", "strided" or "bilinear" thumbnails.
        low_res_net: a layer or model of your own that maps images to `(hidden, logits)`, instead of `LowResNet`.
        glimpse_net: one of your own that maps patches to logits, instead of `GlimpseNet`: cloned for each glimpse, or a list
            with one for each. Both are given floats, whatever the images are.
        preprocess: a layer or model in front: `Rescaling`, `RandomFlip`, a `Sequential` of several. It is given the pixels as
            they are, as floats; what it returns is used as it is. It runs inside `fit` and every exported file, is saved
            with the model, and what Keras turns off in inference is off there.

    Call arguments:
        images: `[batch, height, width, channels]`, floats as you scaled them or unsigned integers (scaled to [0, 1]).

    Returns:
        `[batch, num_classes]`, float32: the logits of eq. 6 after the last of the `active_glimpses`.

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

    num_classes, num_glimpses, parallel, share_weights, gated_glimpse = Fixed(), Fixed(), Fixed(), Fixed(), Fixed()
    search_size, search_stride = Setting(check_search_size), Setting(check_search_stride)
    location_weight, diversity_weight = Setting(check_numbers), Setting(check_numbers)
    diversity_variance = Setting(partial(check_numbers, above=0.0))
    contrastive = Setting(partial(check_one_of, (False, True)))
    averaging, location_input = Setting(partial(check_one_of, AVERAGING)), Setting(partial(check_one_of, LOCATION_INPUTS))

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
        search_stride: int | float = 1 / 24,
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
        preprocess: keras.Layer | None = None,
        **kwargs,
    ):
        super().__init__(**{"autocast": False, **kwargs})  # Images keep the precision they came in.
        check_integers(2, num_classes=num_classes)
        check_integers(1, num_glimpses=num_glimpses)
        check_integers(0, parallel=int(parallel) if isinstance(parallel, bool) else parallel)
        check_one_of((False, True), share_weights=share_weights)
        check_one_of((False, True), gated_location=gated_location, gated_glimpse=gated_glimpse)
        check_layer(low_res_net=low_res_net, preprocess=preprocess)
        self.num_classes = num_classes
        self.num_glimpses = num_glimpses
        self.search_size = search_size
        self.search_stride = search_stride
        self.location_weight = location_weight
        self.diversity_weight = diversity_weight
        self.diversity_variance = diversity_variance
        self.contrastive = contrastive
        self.parallel = parallel
        self.share_weights = share_weights
        self.averaging = averaging
        self.location_input = location_input
        self.gated_glimpse = gated_glimpse
        self._plain_config = {
            "low_res_size": low_res_size,
            "patch_size": patch_size,
            "scales": integers("scales", scales),
            "hidden_units": hidden_units,
            "gated_location": gated_location,
            "downsample": downsample,
        }
        self._own = {"low_res_net": low_res_net is not None, "glimpse_net": glimpse_net is not None}
        self._own["preprocess"] = preprocess is not None

        policy = self.dtype_policy
        self.preprocess = preprocess
        self.crop = MultiScaleCrop(patch_size, scales, dtype=policy)
        self.low_res_net = low_res_net or LowResNet(num_classes, low_res_size, hidden_units, downsample, dtype=policy)
        self.location_heads = tuple(LocationHead(gated_location, dtype=policy) for _ in range(num_glimpses))
        template = glimpse_net or GlimpseNet(num_classes, hidden_units, gated_glimpse, dtype=policy)
        self.glimpse_nets = tuple(one_for_each_glimpse(template, num_glimpses, share_weights))
        self.image_shape = None
        self._active, self._trained = num_glimpses, ()
        self._pixels = None if preprocess else PixelRange()

    @property
    def group_size(self) -> int:
        """Glimpses whose places are predicted at a time: 1, or M of section 2.2.3."""
        return self.num_glimpses if self.parallel is True else int(self.parallel) or 1

    @property
    def active_glimpses(self) -> int:
        """How many glimpses the model looks at, in `predict`, `evaluate`, `look`, the cascade and every exported file.

        All of them, until a stage is trained: then those up to the glimpse that was trained last. May be set, to do with fewer.
        """
        return self._active

    @active_glimpses.setter
    def active_glimpses(self, value):
        check_integers(1, active_glimpses=value)
        if value > self.num_glimpses:
            raise ValueError(f"active_glimpses must be at most num_glimpses, {self.num_glimpses}; got {value}.")
        self._active = int(value)

    @property
    def trained_glimpses(self) -> tuple[int, ...]:
        """Numbers of the glimpses that some stage has trained, 1, 2, ...; kept in the file of the model's weights."""
        return self._trained

    def _note_training(self, glimpse, image):
        """Notes that a stage trains this glimpse, 1, 2, ..., on images of the shape and dtype of `image`."""
        self._active, self._trained = glimpse, tuple(sorted({*self._trained, glimpse}))
        if image is None or not image.dtype.is_unsigned:
            return
        if self.preprocess is None:
            self._pixels.largest = 1.0
        elif np.max(self.prepare(tf.fill((1, *self.image_shape), 255.0))) > PixelRange.PLAUSIBLE:
            warnings.warn(
                "The networks are given bytes as floats from 0 to 255, since `preprocess` does not scale them: add Rescaling.",
                stacklevel=2,
            )

    # ---- Inference, section 2.1: one glimpse at a time, then all of them ----

    def prepare(self, images, training=False) -> tf.Tensor:
        """Images as all that follows is given them: checked, and through `preprocess`."""
        check_spec(images.shape, images.dtype, self.image_shape)
        if self.image_shape is not None:  # Their size may not be known in the graph of somebody else.
            images = tf.ensure_shape(images, (None, *self.image_shape))
        if self.preprocess is None:
            return images
        return self.preprocess(tf.cast(images, keras.config.floatx()), training=training)

    def first_look(self, images, training=False) -> Evidence:
        """The thumbnail, through the low-resolution network (eq. 1): what is known of prepared images before any glimpse."""
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
        """Adds the next glimpse at prepared images, at the place that the model predicts."""
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
        images = self.prepare(images, training)
        evidence = self.first_look(images, training)
        logits, locations, patches = [self.combine(evidence)], [], []
        for _ in range(self.active_glimpses):
            locations.append(self.locate(evidence))
            patches.append(self.crop(images, locations[-1]))
            evidence = self.glimpse(evidence, patches[-1], locations[-1], training)
            logits.append(self.combine(evidence))
        steps = {"logits": logits, "locations": locations, "patches": patches}
        return {name: ops.stack(values, axis=1) for name, values in steps.items()}

    def build(self, input_shape):  # The converter of LiteRT asks for an argument of this name.
        check_image_shape(input_shape, {})
        images = keras.KerasTensor((None, *input_shape[1:]), "float32")
        if self.preprocess is not None:
            images = self.preprocess(images)
            check_image_shape(images.shape, {})
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
        if training and self.trainable and outermost_layer() not in (None, self):
            raise ValueError(
                f"{type(self).__name__} cannot be trained as a part of {outermost_layer().name!r}: its location heads learn "
                "in its own fit only. Pass layers that come before it as `preprocess`, or set its `trainable` to False."
            )
        return self._look(images, training)["logits"][:, -1]

    def add_loss(self, loss):
        raise ValueError(
            "add_loss is no part of eqs. 16 to 18: call it on a layer of one of its networks, and it is added to the loss."
        )

    def compute_output_shape(self, images_shape):
        return (images_shape[0], self.num_classes)

    def compute_output_spec(self, images, training=False):
        return keras.KerasTensor(self.compute_output_shape(images.shape), "float32")

    def look(self, images) -> dict[str, tf.Tensor]:
        """Looks at images and tells what was seen where.

        Args:
            images: `[batch, height, width, channels]`; all at once, so not more than fit in memory several times over.

        Returns:
            dict of float32 tensors: `logits` `[batch, active_glimpses + 1, num_classes]`, after 0, 1, ... glimpses;
            `locations` `[batch, active_glimpses, 2]`, `(y, x)` in [0, 1]; `patches` `[batch, active_glimpses, size, size,
            channels * len(scales)]`, the glimpses themselves.
        """
        check_images(images, self.image_shape)
        if not self.built:
            self.build(images.shape)
        if not tf.executing_eagerly():  # In another graph it must be traced anew, since that may be for another runtime.
            return self._look(ops.convert_to_tensor(images))
        self.see_pixels(images)
        return self.cached("look", lambda: self.graph(self._look))(ops.convert_to_tensor(images))

    def cached(self, name: str, make):
        """What `make()` returns; made again only when something has changed that graphs hold (see `tracing`)."""
        return self._functions.get(name, make)

    def graph(self, function) -> tf.function:
        """A function on tensors as a graph for TensorFlow, compiled by XLA if the model is."""
        return tf.function(run_by_tensorflow()(function), jit_compile=self.jit_compile, reduce_retracing=True, autograph=False)

    def see_pixels(self, images) -> None:
        """Warns, once, if the pixels of floats are not in the range that the model expects; looks at the first few images."""
        if self._pixels:
            self._pixels.see(images[:32])

    def predict_on_batch(self, x):
        """As `keras.Model.predict_on_batch`; the array is checked first."""
        check_images(x, self.image_shape, at_least=1)
        self.see_pixels(x)
        return super().predict_on_batch(x)

    # ---- Saving and exporting ----

    @property
    def inputs(self) -> list[keras.KerasTensor] | None:
        """What a functional model has, and converters ask for: the images that the model was built for."""
        return self.image_shape and [keras.KerasTensor((None, *self.image_shape), self.input_dtype, name="images")]

    @property
    def input_dtype(self) -> str:
        """What exported graphs are given, whatever precision the networks have."""
        return "float32"

    def quantize(self, mode=None, config=None, filters=None, **kwargs) -> None:
        """As `keras.Model.quantize`: dense layers of the networks, ours and yours, in 8 or 4 bits.

        Location heads stay float32, so that places are not rounded. Convolutions stay as they are, with a warning: Keras has no
        quantized form of them. Kernels that are quantized are not trained any more; biases, location heads and LoRA are. A
        model that was compiled gets a fresh optimizer. `export_litert` and `export_onnx` know int8 only.

        Args:
            mode: "int8" or "int4".
            config: a `keras.quantizers.QuantizationConfig`; optional.
            filters: which layers: a regular expression for their names, a list of them, or a function of a layer.
            **kwargs: as in Keras.

        Raises:
            ValueError: before anything is changed: a model that is not built or is quantized already, a mode that does not
                exist or not work here, filters that match nothing.

        Example:
        >>> model = GlimpseClassifier(num_classes=10)
        >>> model.build((None, 48, 48, 1))
        >>> model.quantize("int8")
        >>> [layer.dtype_policy.name for layer in model.low_res_net.hidden_layers]
        ['int8_from_float32']
        """
        layers = layers_to_quantize(self, mode, filters)
        super().quantize(mode, config, filters=layers.__contains__, **kwargs)
        if self.compiled:
            self.optimizer = self.optimizer.from_config(self.optimizer.get_config())
            self.optimizer.build(self.trainable_variables)

    def export(self, filepath, format="tf_saved_model", *args, **kwargs):
        """As `keras.Model.export`.

        Its graphs have operations that every runtime has, as have all that you trace yourself: `tf.function`s that call the
        model, models that it is a part of, `TFLiteConverter.from_keras_model(model)` and `tf2onnx.convert.from_keras(model)`.

        Raises:
            ValueError: the model is not built, or has layers of int4 in another format than a SavedModel.
        """
        if not self.built:
            raise ValueError("Only a model that is built can be exported: fit it, load it or call it on images first.")
        self(tf.zeros((1, *self.image_shape)))  # Keras exports only models that were called; training does not call them.
        if format != "tf_saved_model":
            check_exportable(f"export(format={format!r})", self, None, quantized=("int8",))
        with float_products(self):
            return super().export(filepath, format, *args, **kwargs)

    @property
    def inner(self):
        """The networks that the model made itself (see `KeepsInner`)."""
        made = {"low_res_net": "low_res_net", "glimpse_nets": "glimpse_net"}
        return ("location_heads", *(name for name in made if not self._own[made[name]]))

    def save(self, filepath, *args, **kwargs):
        """As `keras.Model.save`, to a `.keras` file."""
        if os.fspath(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(f"Expected a path that ends in .keras, since .h5 cannot hold a subclassed model; got {filepath}")
        return super().save(filepath, *args, **kwargs)

    def save_own_variables(self, store):
        """Keeps beside the weights what they were trained for."""
        if any(layer.quantization_mode and getattr(layer, "lora_enabled", False) for layer in all_layers(self)):
            warnings.warn("LoRA on quantized layers is saved as part of their kernels, rounded: answers change.", stacklevel=2)
        store["active_glimpses"] = np.asarray(self.active_glimpses)
        store["trained_glimpses"] = np.asarray(self.trained_glimpses, np.int64)
        store["largest_pixel"] = np.asarray(self._pixels and self._pixels.largest or 0.0)

    def load_own_variables(self, store):
        if "active_glimpses" not in [*store.keys()]:  # Version 0.1 looked at all glimpses, and did not note what was trained.
            self._active, self._trained = self.num_glimpses, tuple(range(1, self.num_glimpses + 1))
            return
        self._active, self._trained = int(store["active_glimpses"][()]), tuple(map(int, store["trained_glimpses"][()]))
        if self._pixels:
            self._pixels.largest = float(store["largest_pixel"][()]) or None

    def get_config(self):
        shared = self.share_weights
        own = {"low_res_net": self.low_res_net, "glimpse_net": self.glimpse_nets[0] if shared else self.glimpse_nets}
        own["preprocess"] = self.preprocess
        names = ("num_classes", "num_glimpses", "search_size", "search_stride", "location_weight", "diversity_weight")
        names += ("diversity_variance", "contrastive", "parallel", "share_weights", "averaging", "location_input")
        names += ("gated_glimpse",)
        config = super().get_config() | self._plain_config | {name: getattr(self, name) for name in names}
        if self.active_glimpses < self.num_glimpses:
            config["active_glimpses"] = self.active_glimpses
        return config | {name: keras.saving.serialize_keras_object(own[name]) for name in own if self._own[name]}

    @classmethod
    def from_config(cls, config):
        with usable("config"):
            nets = {name: config[name] for name in ("low_res_net", "glimpse_net", "preprocess") if name in config}
            nets = {name: keras.saving.deserialize_keras_object(net) for name, net in nets.items()}
            model = cls(**{name: value for name, value in (config | nets).items() if name not in ("inner", "active_glimpses")})
            model.change_inner(config.get("inner", {}))
            model.active_glimpses = config.get("active_glimpses", model.num_glimpses)
            return model

    def build_from_config(self, config):
        with usable("build_config"):
            super().build_from_config({"input_shape": tuple(config["input_shape"])})  # JSON has no tuples; LiteRT wants one.

    def compile_from_config(self, config):
        with usable("compile_config"):
            super().compile_from_config(config)
