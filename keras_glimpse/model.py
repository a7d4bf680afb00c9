"""`GlimpseClassifier`: the whole system of the paper as one Keras model."""

import os
import warnings
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_glimpse._compat import Saveable, all_layers
from keras_glimpse._validation.arguments import (
    check_exportable,
    check_integers,
    check_layers,
    check_one_of,
    clear_config_errors,
    integers,
)
from keras_glimpse.attributes import Fixed
from keras_glimpse.layers import GlimpseNet, LocationHead, LowResNet, MultiScaleCrop
from keras_glimpse.layers.clones import one_for_each_glimpse
from keras_glimpse.layers.inner import KeepsInner
from keras_glimpse.quantization import float_products, layers_to_quantize
from keras_glimpse.training.trainer import Trainer

NETWORKS = ("low_res_net", "glimpse_net", "preprocess")  # Arguments that are layers of the user's, or None.


@keras.saving.register_keras_serializable(package="keras_glimpse")
class GlimpseClassifier(Saveable, KeepsInner, Trainer):
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
        location_input: "logits" (eq. 8) or "probabilities": the class evidence that location heads get.
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

    low_res_size, patch_size, scales, hidden_units, downsample = Fixed(), Fixed(), Fixed(), Fixed(), Fixed()
    parallel, share_weights, gated_location = Fixed(), Fixed(), Fixed()

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
        check_integers(2, num_classes=num_classes)
        check_integers(1, num_glimpses=num_glimpses)
        check_integers(0, parallel=int(parallel) if isinstance(parallel, bool) else parallel)
        check_one_of((False, True), share_weights=share_weights, gated_location=gated_location, gated_glimpse=gated_glimpse)
        check_layers(low_res_net=low_res_net, preprocess=preprocess)
        policy = keras.dtype_policies.get(kwargs.get("dtype"))
        super().__init__(
            num_classes=num_classes,
            preprocess=preprocess,
            crop=MultiScaleCrop(patch_size, scales, dtype=policy),
            low_res_net=low_res_net or LowResNet(num_classes, low_res_size, hidden_units, downsample, dtype=policy),
            location_heads=[LocationHead(gated_location, dtype=policy) for _ in range(num_glimpses)],
            glimpse_nets=one_for_each_glimpse(
                glimpse_net or GlimpseNet(num_classes, hidden_units, gated_glimpse, dtype=policy), num_glimpses, share_weights
            ),
            gated_glimpse=gated_glimpse,
            group_size=num_glimpses if parallel is True else int(parallel) or 1,
            averaging=averaging,
            location_input=location_input,
            search_size=search_size,
            search_stride=search_stride,
            location_weight=location_weight,
            diversity_weight=diversity_weight,
            diversity_variance=diversity_variance,
            contrastive=contrastive,
            **kwargs,
        )
        self.low_res_size = _fixed(low_res_size)
        self.patch_size = patch_size
        self.scales = integers("scales", scales)
        self.hidden_units = _fixed(hidden_units)
        self.downsample = downsample
        self.parallel = parallel
        self.share_weights = share_weights
        self.gated_location = gated_location
        self._of_user = {
            "low_res_net": low_res_net is not None,
            "glimpse_net": glimpse_net is not None,
            "preprocess": preprocess is not None,
        }

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
        return ("location_heads", *(name for name in made if not self._of_user[made[name]]))

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
        names = ("num_classes", "num_glimpses", "low_res_size", "patch_size", "scales", "hidden_units", "search_size")
        names += ("search_stride", "location_weight", "diversity_weight", "diversity_variance", "contrastive", "parallel")
        names += ("share_weights", "averaging", "location_input", "gated_location", "gated_glimpse", "downsample")
        config = super().get_config() | {name: getattr(self, name) for name in names}
        if self.active_glimpses < self.num_glimpses:
            config["active_glimpses"] = self.active_glimpses
        glimpse_net = self.glimpse_nets[0] if self.share_weights else self.glimpse_nets
        networks = zip(NETWORKS, (self.low_res_net, glimpse_net, self.preprocess))
        return config | {name: keras.saving.serialize_keras_object(net) for name, net in networks if self._of_user[name]}

    @classmethod
    def from_config(cls, config):
        with clear_config_errors("config"):
            networks = {name: keras.saving.deserialize_keras_object(config[name]) for name in NETWORKS if name in config}
            arguments = {name: value for name, value in config.items() if name not in ("inner", "active_glimpses")}
            model = cls(**arguments | networks)
            model.change_inner(config.get("inner", {}))
            model.active_glimpses = config.get("active_glimpses", model.num_glimpses)
            return model

    def build_from_config(self, config):
        with clear_config_errors("build_config"):
            super().build_from_config({"input_shape": tuple(config["input_shape"])})  # JSON has no tuples; LiteRT wants one.

    def compile_from_config(self, config):
        with clear_config_errors("compile_config"):
            super().compile_from_config(config)


def _fixed(sizes):
    """One integer as it is; several as a tuple, which nothing changes."""
    return tuple(sizes) if isinstance(sizes, Sequence) else sizes
