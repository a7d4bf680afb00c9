"""`GlimpseClassifier`: the system of the paper as one Keras model."""

import os
import warnings
from collections.abc import Sequence
from functools import partial

import keras
import numpy as np

from keras_glimpse._compat import Saveable, all_layers
from keras_glimpse._validation.arguments import (
    check_built_classifier,
    check_exportable,
    check_integers,
    check_layers,
    check_one_of,
    class_names_of,
    clear_config_errors,
    integers,
)
from keras_glimpse.attributes import Fixed
from keras_glimpse.card import model_card
from keras_glimpse.hub import is_on_hub, upload
from keras_glimpse.layers import (
    Backbone,
    ConvGlimpseNet,
    ConvLowResNet,
    GlimpseNet,
    LocationHead,
    LocationMap,
    LowResNet,
    MultiScaleCrop,
)
from keras_glimpse.layers.clones import one_for_each_glimpse
from keras_glimpse.layers.conv_glimpse_net import deepest_for
from keras_glimpse.layers.inner import KeepsInner
from keras_glimpse.quantization import float_products, layers_to_quantize
from keras_glimpse.training.trainer import Trainer

NETWORKS = ("low_res_net", "glimpse_net", "location_head", "preprocess")  # Arguments that are layers of the user's, or None.


@keras.saving.register_keras_serializable(package="keras_glimpse")
class GlimpseClassifier(Saveable, KeepsInner, Trainer):
    """Image classifier that looks at a thumbnail, then at a few full-resolution patches at predicted locations.

    The defaults are the paper's for 48x48 images, except `location_weight`: with the printed value of 100 and the printed
    learning rate of 0.05 the location head saturates within two epochs; with 10 it does not. Distances in the loss are in units
    of the image's longer side, so the same weights apply to images of any size.

    For images in which what matters is small, `GlimpseClassifier.for_large_images` has other defaults.

    Images may differ in size, if those of a batch do not: `model.build((None, None, None, channels))`, or a first `fit` on a
    dataset with such an `element_spec`. One graph serves all sizes; XLA is not used.

    These attributes may be set at any time and take effect immediately: `search_size`, `search_stride`, `search_samples`,
    `location_weight`, `diversity_weight`, `diversity_variance`, `contrastive`, `assignment`, `sharpness`, `averaging`,
    `location_input`, `active_glimpses`, `temperatures` and `class_names`. So do changes of the layers (`trainable`, `quantize`,
    LoRA). All other arguments are fixed after construction.

    Args:
        num_classes: Integer, at least 2, the number of classes C.
        num_glimpses: Positive integer, the number of glimpses after the thumbnail. Defaults to `2`.
        low_res_size: Positive integer, the side of the thumbnail in pixels, or a tuple `(rows, columns)`. Defaults to `12`.
        patch_size: Positive integer, the side w of a patch in pixels. Defaults to `12`.
        scales: Sequence of positive integers. A glimpse has one patch for each scale s, which covers a window of
            `s * patch_size` image pixels, averaged s by s. Defaults to `(1, 2)`.
        hidden_units: Positive integer or sequence of them, the units of the hidden layer, or of each hidden layer, of the
            low-resolution and the glimpse networks. Defaults to `500`.
        search_size: Positive odd integer, the side of the grid of candidate locations around the predicted one in training (eq.
            12): 3 is a 3x3 grid. Or `"image"`, a grid over the whole image: the cells of the low-resolution features if they
            have places, else one candidate every `search_stride`. Defaults to `3`.
        search_stride: Pixels between neighbouring candidates if an integer; if a float in (0, 1), that fraction of the image's
            longer side, at least 2 pixels. Defaults to `1 / 24`, the paper's 2 pixels of 48.
        search_samples: Optional positive integer, how many candidates of a search over the whole image are drawn for each image
            of a step: evenly, by the probabilities of a `LocationMap`, and where the features of `low_res_net` stand out. A
            step then costs the same however large the image is. Defaults to `None`: all candidates are evaluated.
        location_weight: Non-negative float, lambda of eq. 9: the weight of the squared distance between candidate and
            predicted location, in units of the image's longer side. A `LocationMap` has -log p(z) instead. Defaults to `10.0`.
        diversity_weight: Non-negative float, gamma of eq. 18: the penalty for a location near an earlier glimpse; `0`
            disables it. Defaults to `0.01`.
        diversity_variance: Positive float, sigma^2 of eq. 18, in squared units of the image's longer side. Defaults to `0.002`.
        contrastive: Boolean, whether the most offending location is trained on too (eqs. 15 and 16). Defaults to `True`.
        assignment: `"hard"`, which trains on the best candidate z* (eq. 12), or `"soft"`, which trains on samples of the
            candidates' posterior probabilities given the label (see the guide, "How large images are learned"). Defaults to
            `"hard"`.
        sharpness: Positive float, the exponent of the label's likelihood in a soft assignment: with `1` places have their
            posterior probabilities, with more those where the glimpse network is surer of the label have a larger share. `4`
            where nearly all of a large image is empty, which would have most of the posterior for many epochs. Defaults to
            `1.0`.
        parallel: Boolean or non-negative integer (section 2.2.3). `True` predicts all locations from the thumbnail alone; an
            integer M predicts M locations at a time. Defaults to `False`.
        share_weights: Boolean, whether all glimpses share one glimpse network; and one location head, if one is passed as
            `location_head`, else each has its own. Every stage then updates the shared network, from the gradient at its own
            glimpse only (section 2.2.1), which also changes the outputs of the other glimpses. Defaults to `False`.
        averaging: `"paper"` (eq. 6: the low-resolution logits plus the mean of the glimpses' logits) or `"uniform"` (the mean
            of all logits). Defaults to `"paper"`.
        location_input: `"logits"` (eq. 8) or `"probabilities"`, the class evidence that location heads receive. Defaults to
            `"logits"`.
        gated_location: Boolean, whether class evidence gates the features of the location heads (section 2.2.3). Defaults to
            `False`.
        gated_glimpse: Boolean, whether the location gates the features of the glimpse networks (section 2.2.3). Defaults to
            `False`.
        downsample: `"area"`, `"strided"` or `"bilinear"`, how the thumbnail is computed (see `LowResNet`). Defaults to
            `"area"`.
        low_res_net: Optional Keras layer or model that maps images to `(hidden, logits)`, in place of `LowResNet`. Its inputs
            are floats. Defaults to `None`.
        glimpse_net: Optional Keras layer or model that maps patches to logits, in place of `GlimpseNet`, cloned for each
            glimpse; or a list with one for each. Its inputs are floats. Defaults to `None`.
        location_head: Optional Keras layer that maps `(hidden, logits)` to locations, in place of `LocationHead`, cloned for
            each glimpse (or shared, with `share_weights`); or a list with one for each, which are not shared. A `LocationMap`
            needs features with places, such as those of `ConvLowResNet`. Defaults to `None`.
        preprocess: Optional Keras layer or model applied to the images first, such as `Rescaling`, `RandomFlip` or a
            `Sequential` of several. Its inputs are unscaled pixels as floats; its outputs are used unchanged. It is part of
            `fit`, of saved models and of exported files; random augmentation applies in training only. Its weights are not
            trained. Defaults to `None`.
        class_names: Optional sequence of `num_classes` different strings, the names of the classes. They are saved with the
            model, and appear in exported files, pictures and tables of results. Defaults to `None`.
        **kwargs: Base model keyword arguments, such as `name` and `dtype`.

    Call arguments:
        images: Tensor `[batch, height, width, channels]` of floats (used unchanged) or unsigned integers (scaled to [0, 1]).
        training: Boolean, whether layers such as `Dropout` and random augmentation are in training mode. Defaults to `False`.
        runtime: String, the runtime of the traced graph: `"any"` uses portable operations only, `"tensorflow"` also faster ones
            that only TensorFlow has, and `"litert_quantized"` is for quantization by LiteRT. Defaults to `"any"`.

    Returns:
        Float32 tensor `[batch, num_classes]`: the logits of eq. 6 after `active_glimpses` glimpses; but for `training`, divided
        by the temperature of that stage.

    Raises:
        ValueError: If an argument is out of range, or the images are smaller than a patch or the thumbnail.
        TypeError: If `low_res_net`, `glimpse_net`, `location_head` or `preprocess` is not a Keras layer.

    Attributes:
        low_res_net: The low-resolution network N0 (eq. 1), a `LowResNet` or the layer passed as `low_res_net`.
        location_heads: Tuple of `num_glimpses` location heads (eqs. 3 and 8).
        glimpse_nets: Tuple of `num_glimpses` glimpse networks (eqs. 4 and 7); the same layer throughout with `share_weights`.
        crop: The `MultiScaleCrop` layer.
        active_glimpses: Integer, the number of glimpses used in inference and in exported files: `num_glimpses` until a stage
            is trained, then the number of the glimpse trained last. May be set.
        temperatures: Tuple of `num_glimpses + 1` floats from 0.01 to 100, what the logits after 0, 1, ... glimpses are divided
            by in inference (see `fit_temperatures`); saved with the weights. May be set; training sets them to 1.
        trained_glimpses: Tuple of integers, the glimpses (from 1) that have been trained; saved with the weights, read-only.
        image_shape: Tuple `(height, width, channels)` that the model was built for, with `None` for sides that may differ;
            `None` before.
        stage: The stage chosen by `compile`, with fields `glimpse` (index from 0) and `searches`; `None` before.

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
        search_size: int | str = 3,
        search_stride: int | float = 1 / 24,
        search_samples: int | None = None,
        location_weight: float = 10.0,
        diversity_weight: float = 0.01,
        diversity_variance: float = 0.002,
        contrastive: bool = True,
        assignment: str = "hard",
        sharpness: float = 1.0,
        parallel: bool | int = False,
        share_weights: bool = False,
        averaging: str = "paper",
        location_input: str = "logits",
        gated_location: bool = False,
        gated_glimpse: bool = False,
        downsample: str = "area",
        low_res_net: keras.Layer | None = None,
        glimpse_net: keras.Layer | Sequence[keras.Layer] | None = None,
        location_head: keras.Layer | Sequence[keras.Layer] | None = None,
        preprocess: keras.Layer | None = None,
        class_names: Sequence[str] | None = None,
        **kwargs,
    ):
        check_integers(2, num_classes=num_classes)
        check_integers(1, num_glimpses=num_glimpses)
        check_integers(0, parallel=int(parallel) if isinstance(parallel, bool) else parallel)
        check_one_of((False, True), share_weights=share_weights, gated_location=gated_location, gated_glimpse=gated_glimpse)
        check_layers(low_res_net=low_res_net, preprocess=preprocess)
        policy = keras.dtype_policies.get(kwargs.get("dtype"))
        if location_head is not None and gated_location:
            raise ValueError("gated_location is of the default location head: pass LocationHead(gated=True) as location_head.")
        shares_head = share_weights and isinstance(location_head, keras.Layer)
        low_res = low_res_net or LowResNet(num_classes, low_res_size, hidden_units, downsample, dtype=policy)
        head = location_head or LocationHead(gated_location, dtype=policy)
        heads = one_for_each_glimpse("location_head", head, num_glimpses, shares_head)
        net = glimpse_net or GlimpseNet(num_classes, hidden_units, gated_glimpse, dtype=policy)
        nets = one_for_each_glimpse("glimpse_net", net, num_glimpses, share_weights)
        super().__init__(
            num_classes=num_classes,
            preprocess=preprocess,
            crop=MultiScaleCrop(patch_size, scales, dtype=policy),
            low_res_net=low_res,
            location_heads=heads,
            glimpse_nets=nets,
            gated_glimpse=gated_glimpse,
            group_size=num_glimpses if parallel is True else int(parallel) or 1,
            averaging=averaging,
            location_input=location_input,
            search_size=search_size,
            search_stride=search_stride,
            search_samples=search_samples,
            location_weight=location_weight,
            diversity_weight=diversity_weight,
            diversity_variance=diversity_variance,
            contrastive=contrastive,
            assignment=assignment,
            sharpness=sharpness,
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
        self.class_names = class_names
        own_nets, own_heads = nets[:1] if share_weights else nets, heads[:1] if shares_head else heads
        _refuse_shared(low_res_net=[self.low_res_net], glimpse_net=own_nets, location_head=own_heads)
        self._of_user = {
            "low_res_net": low_res_net is not None,
            "glimpse_net": glimpse_net is not None,
            "location_head": location_head is not None,
            "preprocess": preprocess is not None,
        }

    @classmethod
    def for_large_images(
        cls,
        num_classes: int,
        num_glimpses: int = 1,
        *,
        low_res_size: int | Sequence[int] = 64,
        patch_size: int = 48,
        scales: Sequence[int] = (1, 2),
        hidden_units: int = 64,
        downsample: str = "area",
        backbone: keras.Layer | None = None,
        preprocess_input: str | keras.Layer | None = None,
        **kwargs,
    ) -> "GlimpseClassifier":
        """Creates a model for images in which what matters is small: convolutions, a map of where to look, a search everywhere.

        The networks are `ConvLowResNet` and `ConvGlimpseNet`, the location head is a `LocationMap`, and training assigns the
        label softly to the places of the whole image. Choose `low_res_size` so that what matters is some 5 pixels in the
        thumbnail, and `patch_size` so that it fits in a patch.

        Args:
            num_classes: Integer, at least 2, the number of classes C.
            num_glimpses: Positive integer, the number of glimpses. Defaults to `1`.
            low_res_size: Positive integer, the side of the thumbnail in pixels, or a tuple `(rows, columns)`. Defaults to `64`.
            patch_size: Positive integer, the side of a patch in pixels. Defaults to `48`.
            scales: Sequence of positive integers, the scales of the patches. Defaults to `(1, 2)`.
            hidden_units: Positive integer, the units of the dense layer in front of the logits of each network. Defaults to
                `64`.
            downsample: `"area"`, `"strided"` or `"bilinear"`, how the thumbnail is computed. Defaults to `"area"`.
            backbone: Optional Keras layer or model that maps images to feature maps, in place of the convolutions of all
                networks, each of which gets a copy with its weights: `keras.applications.MobileNetV2(include_top=False)`,
                a `keras_hub.models.Backbone`. One that is frozen (`trainable = False`) stays so. Defaults to `None`.
            preprocess_input: Optional name of a module of `keras.applications`, or a Keras layer: what the backbone expects to
                be applied to pixels from 0 to 255 (see `Backbone`). Defaults to `None`: it is given pixels in [0, 1].
            **kwargs: Other arguments of `GlimpseClassifier`, which replace these defaults.

        Returns:
            A `GlimpseClassifier`.

        Raises:
            ValueError: As `GlimpseClassifier`, or if `backbone` does not give feature maps.
            TypeError: If `backbone` is not a Keras layer.

        Example:
        >>> model = GlimpseClassifier.for_large_images(num_classes=6)
        >>> model(np.zeros((2, 256, 256, 1), "float32")).shape
        TensorShape([2, 6])
        """
        policy = keras.dtype_policies.get(kwargs.get("dtype"))

        def copied():
            if backbone is None:
                return None
            made = Backbone(backbone, preprocess_input, dtype=policy)
            copy = Backbone.from_config(made.get_config())
            copy.set_weights(made.get_weights())
            return copy

        shared = {"hidden_units": hidden_units, "dtype": policy}
        low_res = {"downsample": downsample, "backbone": copied(), **shared}
        glimpse = {"backbone": copied(), **deepest_for(patch_size), **shared}
        networks = {
            "low_res_net": ConvLowResNet(num_classes, low_res_size, **low_res),
            "glimpse_net": ConvGlimpseNet(num_classes, len(scales), **glimpse),
            "location_head": LocationMap(dtype=policy),
        }
        sizes = {"low_res_size": low_res_size, "patch_size": patch_size, "scales": scales, "hidden_units": hidden_units}
        search = {"search_size": "image", "assignment": "soft", "downsample": downsample}
        return cls(num_classes, num_glimpses, **sizes | networks | search | kwargs)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Tuple of strings, the names of the classes, or `None`. May be set: `model.class_names = dataset.class_names`."""
        return self._class_names

    @class_names.setter
    def class_names(self, names):
        self._class_names = class_names_of(names, self.num_classes)

    # ---- Saving and exporting ----

    @property
    def inputs(self) -> list[keras.KerasTensor] | None:
        """Symbolic inputs, as of a functional model, which converters ask for; `None` before the model is built."""
        return self.image_shape and [keras.KerasTensor((None, *self.image_shape), self.input_dtype, name="images")]

    @property
    def input_dtype(self) -> str:
        """Dtype of the images in exported graphs, whatever the precision of the networks."""
        return "float32"

    def quantize(self, mode=None, config=None, filters=None, **kwargs) -> None:
        """Quantizes the dense layers of the networks in place, as `keras.Model.quantize` does.

        Location heads stay float32, so that locations are not rounded. Layers that Keras cannot quantize, such as convolutions,
        are left unchanged, with a warning. Quantized kernels are frozen; biases, location heads and LoRA weights are still
        trained. A compiled model gets a fresh optimizer. `export_litert` and `export_onnx` support `"int8"` only.

        Args:
            mode: `"int8"` or `"int4"`. May be `None` if `config` is given. Defaults to `None`.
            config: Optional `keras.quantizers.QuantizationConfig`. Defaults to `None`.
            filters: Optional regular expression, list of them (matched with the layers' names), or function from a layer to a
                boolean: the layers to quantize. Defaults to `None`, all of them.
            **kwargs: Other arguments of `keras.Model.quantize`.

        Raises:
            ValueError: Before any change, if the model is not built or already quantized, `mode` is not supported, or no layer
                matches.

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
        """Exports the model for inference, as `keras.Model.export` does.

        The graph consists of operations that TensorFlow, LiteRT and ONNX share, as does every graph in which you call the model
        yourself: `tf.function`, `TFLiteConverter.from_keras_model(model)`, `tf2onnx.convert.from_keras(model)`. All active
        glimpses are computed; for early exit, use `export_saved_model`, `export_litert` or `export_onnx`.

        Args:
            filepath: String or path, the folder or file to write.
            format: String, `"tf_saved_model"` or another format of `keras.Model.export`. Defaults to `"tf_saved_model"`.
            *args: Other arguments of `keras.Model.export`.
            **kwargs: Other arguments of `keras.Model.export`: `verbose`, `input_signature`, ...

        Raises:
            ValueError: If the model is not built, or has int4 layers and `format` is not `"tf_saved_model"`, or `format` is
                `"litert"` and images may differ in size.

        Example:
        >>> import tempfile
        >>> import tensorflow as tf
        >>> model = GlimpseClassifier(num_classes=10)
        >>> model.build((None, 48, 48, 1))
        >>> folder = tempfile.mkdtemp() + "/1"
        >>> model.export(folder, verbose=False)
        >>> loaded = tf.saved_model.load(folder)
        >>> loaded.serve(tf.zeros((3, 48, 48, 1))).shape
        TensorShape([3, 10])
        """
        if not self.built:
            raise ValueError("Only a model that is built can be exported: fit it, load it or call it on images first.")
        self(self.inputs[0])  # Keras exports only models that were called; training does not call them.
        if format == "litert" and None in self.image_shape and not kwargs.get("input_signature"):
            raise ValueError("A LiteRT file takes images of one size: use export_litert(..., image_shape=(height, width)).")
        if format != "tf_saved_model":
            check_exportable(f"export(format={format!r})", self, None, quantized=("int8",))
        with float_products(self):
            return super().export(filepath, format, *args, **kwargs)

    @property
    def inner(self):
        """Names of the attributes with networks that the model created itself (see `KeepsInner`)."""
        made = {"location_heads": "location_head", "low_res_net": "low_res_net", "glimpse_nets": "glimpse_net"}
        return tuple(name for name in made if not self._of_user[made[name]])

    def save(self, filepath, *args, card: str | None = None, **kwargs):
        """Saves the model to a `.keras` file, as `keras.Model.save` does; `keras.models.load_model` loads it.

        Or to the Hugging Face Hub, `hf://user/name`, with a model card, in one commit; `load_pretrained` and
        `keras.models.load_model` load it. Requires `pip install keras-glimpse[hub]` and `hf auth login`.

        Args:
            filepath: String or path that ends in `.keras`, or a string `hf://user/name`.
            *args: Other arguments of `keras.Model.save`, not for the Hub.
            card: Optional string, the model card for the Hub, from `model_card`. Defaults to `None`, a card of what is known
                from the model.
            **kwargs: Other arguments of `keras.Model.save`, `overwrite` and `zipped`, not for the Hub.

        Raises:
            ValueError: If the path ends in `.h5` or `.hdf5`, which cannot store a subclassed model; if it starts with `hf://`
                and is not `hf://user/name`, or the model is not built, or there are other arguments than `card`; or if there
                is a card and it does not.
            ImportError: If it starts with `hf://` and huggingface_hub is not installed.
            OSError: If the Hub cannot be reached, or refuses.

        Example:
        >>> import tempfile
        >>> model = GlimpseClassifier(num_classes=10)
        >>> model.build((None, 48, 48, 1))
        >>> path = tempfile.mkdtemp() + "/model.keras"
        >>> model.save(path)
        >>> keras.models.load_model(path).num_glimpses
        2
        """
        if is_on_hub(filepath):
            if args or kwargs:
                raise ValueError(
                    f"{filepath} is a new version in a repository: only card goes with it; got {[*args, *kwargs]}."
                )
            check_built_classifier("save", self)
            if not isinstance(card, str | None):
                raise TypeError(f"card must be a string, such as model_card returns; got {type(card).__name__}.")
            card = model_card(self, filepath) if card is None else card
            return upload(filepath, card, partial(super().save, zipped=False))
        if card is not None:
            raise ValueError(f"card is for the Hub: expected hf://user/name with it; got {filepath}")
        if os.fspath(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(f"Expected a path that ends in .keras, since .h5 cannot hold a subclassed model; got {filepath}")
        return super().save(filepath, *args, **kwargs)

    def save_own_variables(self, store):
        """Saves the active and the trained glimpses, the temperatures and the pixel range beside the weights."""
        if any(layer.quantization_mode and getattr(layer, "lora_enabled", False) for layer in all_layers(self)):
            warnings.warn("LoRA on quantized layers is saved as part of their kernels, rounded: answers change.", stacklevel=2)
        store["active_glimpses"] = np.asarray(self.active_glimpses)
        store["trained_glimpses"] = np.asarray(self.trained_glimpses, np.int64)
        if self.is_calibrated:
            store["temperatures"] = np.asarray(self.temperatures)
        store["largest_pixel"] = np.asarray(self._pixels and self._pixels.largest or 0.0)

    def load_own_variables(self, store):
        names = [*store.keys()]
        # The file may be of fewer glimpses, or of more.
        known = store["temperatures"][()].tolist()[: self.num_glimpses + 1] if "temperatures" in names else []
        self.temperatures = known + [1.0] * (self.num_glimpses + 1 - len(known))
        if "active_glimpses" not in names:  # Version 0.1 looked at all glimpses, and did not note what was trained.
            self._active, self._trained = self.num_glimpses, tuple(range(1, self.num_glimpses + 1))
            return
        self._active = min(int(store["active_glimpses"][()]), self.num_glimpses)
        self._trained = tuple(n for n in store["trained_glimpses"][()].tolist() if n <= self.num_glimpses)
        self._resolve_stage()
        if self._pixels:
            self._pixels.largest = float(store["largest_pixel"][()]) or None

    def get_config(self):
        names = ("num_classes", "num_glimpses", "low_res_size", "patch_size", "scales", "hidden_units")
        names += ("search_size", "search_stride", "search_samples", "location_weight", "diversity_weight", "diversity_variance")
        names += ("contrastive", "assignment", "sharpness")
        names += ("parallel", "share_weights", "averaging", "location_input", "gated_location", "gated_glimpse", "downsample")
        config = super().get_config() | {name: getattr(self, name) for name in names}
        if self.class_names is not None:
            config["class_names"] = self.class_names
        if self.active_glimpses < self.num_glimpses:
            config["active_glimpses"] = self.active_glimpses
        if self.is_calibrated:
            config["temperatures"] = self.temperatures
        one_or_each = lambda layers: layers[0] if len({*map(id, layers)}) == 1 else layers  # noqa: E731
        heads, nets = one_or_each(self.location_heads), one_or_each(self.glimpse_nets)
        networks = zip(NETWORKS, (self.low_res_net, nets, heads, self.preprocess))
        return config | {name: keras.saving.serialize_keras_object(net) for name, net in networks if self._of_user[name]}

    @classmethod
    def from_config(cls, config):
        with clear_config_errors("config"):
            networks = {name: keras.saving.deserialize_keras_object(config[name]) for name in NETWORKS if name in config}
            arguments = {
                name: value for name, value in config.items() if name not in ("inner", "active_glimpses", "temperatures")
            }
            model = cls(**arguments | networks)
            model.change_inner(config.get("inner", {}))
            model.active_glimpses = config.get("active_glimpses", model.num_glimpses)
            model.temperatures = config.get("temperatures")
            return model

    def build_from_config(self, config):
        with clear_config_errors("build_config"):
            super().build_from_config({"input_shape": tuple(config["input_shape"])})  # JSON has no tuples; LiteRT wants one.

    def compile_from_config(self, config):
        with clear_config_errors("compile_config"):
            super().compile_from_config(config)


def _refuse_shared(**networks):
    """A layer in two networks would be trained by the stages of both, and saved as two layers."""
    owners = {}
    for name, nets in networks.items():
        for n, net in enumerate(nets):
            for layer in all_layers(net):
                if isinstance(layer, keras.layers.InputLayer):  # Of models that were made from one `keras.Input`.
                    continue
                owner, first = owners.setdefault(id(layer), (name, n))
                if (owner, first) != (name, n):
                    which = f"two entries of {name}" if owner == name else f"{owner} and {name}"
                    raise ValueError(
                        f"{which} share the layer {layer.name!r}: give each one of its own. share_weights=True shares one "
                        "glimpse_net, and one location_head, between all glimpses."
                    )


def _fixed(sizes):
    """One integer as it is; several as a tuple, which nothing changes."""
    return tuple(sizes) if isinstance(sizes, Sequence) else sizes
