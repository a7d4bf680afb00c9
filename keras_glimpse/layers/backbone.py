"""A model of `keras.applications` or KerasHub as the convolutions of a network."""

import keras
from keras import ops

from keras_glimpse._compat import all_layers
from keras_glimpse._validation.arguments import check_layers


def preprocess_of(name: str):
    """The function `preprocess_input` of a module of `keras.applications`, such as `"mobilenet_v2"`."""
    module = getattr(keras.applications, name, None)
    if not hasattr(module, "preprocess_input"):
        known = [each for each in dir(keras.applications) if hasattr(getattr(keras.applications, each), "preprocess_input")]
        raise ValueError(f"preprocess_input must be a layer or one of {known}; got {name!r}.")
    return module.preprocess_input


@keras.saving.register_keras_serializable(package="keras_glimpse")
class Backbone(keras.layers.Layer):
    """A model that maps images to feature maps, given pixels as it was trained with.

    Weights, `trainable` and batch normalisation are those of the model: a frozen one (`model.trainable = False`) stays in
    inference mode, dropout included, and is not changed by training. Of one that is trained, a layer that is frozen keeps its
    weights and statistics.

    Args:
        model: Keras layer or model that maps `[batch, height, width, channels]` to `[batch, rows, columns, units]`, such as
            `keras.applications.MobileNetV3Small(include_top=False)`, with `preprocess_input="mobilenet_v3"`, or a
            `keras_hub.models.Backbone`.
        preprocess_input: What is applied to pixels from 0 to 255 before the model: the name of a module of
            `keras.applications`, such as `"mobilenet_v2"`, whose `preprocess_input` it is, or a Keras layer. Defaults to
            `None`: the model is given pixels in [0, 1].
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        pixels: Tensor `[batch, height, width, channels]` of floats in [0, 1]. Grey ones are repeated for a model of colour.

    Returns:
        Tensor `[batch, rows, columns, units]`.

    Raises:
        ValueError: If the output is not a feature map, or `preprocess_input` is unknown.
        TypeError: If `model` is not a Keras layer.

    Example:
    >>> model = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(64, 64, 3), alpha=0.35)
    >>> Backbone(model, "mobilenet_v2")(ops.zeros((2, 64, 64, 1))).shape
    TensorShape([2, 2, 2, 1280])
    """

    def __init__(self, model: keras.Layer, preprocess_input: str | keras.Layer | None = None, **kwargs):
        super().__init__(**{"autocast": False, **kwargs})
        if not isinstance(model, keras.Layer):
            raise TypeError(f"backbone must be a Keras layer or model; got {model!r}.")
        self.model = model
        self.preprocess_input = preprocess_input
        if isinstance(preprocess_input, str):
            self._preprocess = preprocess_of(preprocess_input)
        else:
            check_layers(preprocess_input=preprocess_input)
            self._preprocess = preprocess_input

    def call(self, pixels, training=False):
        if pixels.shape[-1] == 1 and self._channels() == 3:
            pixels = ops.repeat(pixels, 3, axis=-1)
        if self._preprocess is not None:
            pixels = self._preprocess(255.0 * ops.cast(pixels, "float32"))
        features = self.model(pixels, training=training and self.trainable and self.model.trainable)
        shape = getattr(features, "shape", ())
        if len(shape) != 4:
            raise ValueError(
                f"backbone must map images to features [batch, rows, columns, units]; {self.model.name!r} gives "
                f"{tuple(shape)}. Models of keras.applications do with include_top=False and pooling=None."
            )
        return features

    def _channels(self):
        shape = getattr(self.model, "input_shape", None)
        return shape[-1] if isinstance(shape, tuple) else None

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        named = self.preprocess_input is None or isinstance(self.preprocess_input, str)
        preprocess_input = self.preprocess_input if named else serialize(self.preprocess_input)
        config = super().get_config() | {"model": serialize(self.model), "preprocess_input": preprocess_input}
        # A model that is a class, as all of KerasHub are, does not save which of its layers are frozen.
        return config | {"frozen": [n for n, layer in enumerate(all_layers(self.model)) if not layer.trainable]}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        made = {"model": keras.saving.deserialize_keras_object(config["model"])}
        layers = all_layers(made["model"])
        for n in config.pop("frozen", ()):
            layers[n].trainable = False
        if isinstance(config["preprocess_input"], dict):
            made["preprocess_input"] = keras.saving.deserialize_keras_object(config["preprocess_input"])
        return cls(**config | made)


def with_backbone(features) -> dict:
    """The entry of a config for the `Backbone` that a network was given, if it was."""
    return {"backbone": keras.saving.serialize_keras_object(features)} if isinstance(features, Backbone) else {}


def with_layer(config: dict) -> dict:
    """A config whose `Backbone` is a layer again."""
    made = {"backbone": keras.saving.deserialize_keras_object(config["backbone"])} if "backbone" in config else {}
    return config | made
