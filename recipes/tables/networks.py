"""The networks of the tables, by the names that their rows have for them."""

from collections.abc import Mapping

import keras
import tensorflow as tf
from keras import ops

import keras_glimpse
from keras_glimpse import GlimpseClassifier, LowResNet


def dense(hidden_units: int = 500) -> keras.Model:
    """Fully connected on high-resolution images: one hidden layer."""
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(hidden_units, "relu")]
    return keras.Sequential([*layers, keras.layers.Dense(10)])


def conv() -> keras.Model:
    """The convolutional network of section 4.1. The MACs of table 1 require convolutions without padding."""
    layers = [keras.layers.Rescaling(1 / 255)]
    for _ in range(2):
        layers += [keras.layers.Conv2D(64, 5, activation="relu"), keras.layers.MaxPooling2D(2)]
    layers += [keras.layers.Flatten(), keras.layers.Dense(128, "relu"), keras.layers.Dense(10)]
    return keras.Sequential(layers)


def teacher() -> keras.Model:
    """Convolutions with batch normalisation and dropout on digits of 28x28 pixels, to teach smaller networks."""
    layers = [keras.layers.Rescaling(1 / 255)]
    for filters, size, strides, pool in ((16, 5, 2, 1), (48, 3, 1, 2), (96, 3, 1, 2)):
        layers += [keras.layers.Conv2D(filters, size, strides, "same", use_bias=False), keras.layers.BatchNormalization()]
        layers += [keras.layers.ReLU(), keras.layers.MaxPooling2D(pool)]
    layers += [keras.layers.Flatten(), keras.layers.Dropout(0.5), keras.layers.Dense(128, "relu"), keras.layers.Dropout(0.5)]
    return keras.Sequential([*layers, keras.layers.Dense(10)])


def conv_glimpse(first: int, second: int) -> keras.Model:
    """A small convolutional glimpse network for 12x12x2 patches: 3x3 filters, as many as said in each of two layers."""
    layers = [keras.layers.Conv2D(first, 3, activation="relu"), keras.layers.MaxPooling2D(2)]
    layers += [keras.layers.Conv2D(second, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(10)]
    return keras.Sequential(layers)


def conv_thumbnail(filters: int, hidden_units: int) -> keras.Model:
    """A low-resolution network for 48x48 images whose first layer is a convolution."""
    images = keras.Input((48, 48, 1))
    features = keras.layers.Conv2D(filters, 4, strides=2, activation="relu")(keras_glimpse.Thumbnail(12)(images))
    hidden = keras.layers.Dense(hidden_units, "relu")(keras.layers.Flatten()(features))
    return keras.Model(images, (hidden, keras.layers.Dense(10)(hidden)))


def convolutional(filters, hidden_units, thumbnail_filters=None, **kwargs) -> GlimpseClassifier:
    """Convolutional glimpses and a smaller thumbnail network than the paper's: what is spared there is spent on looking."""
    thumbnail = thumbnail_filters and conv_thumbnail(thumbnail_filters, hidden_units)
    nets = {"glimpse_net": conv_glimpse(*filters), "low_res_net": thumbnail}
    return GlimpseClassifier(10, location_weight=10.0, hidden_units=hidden_units, **nets, **kwargs)


@keras.saving.register_keras_serializable(package="recipes")
class Thumbnail(keras.Model):
    """Fully connected on down-sampled images: the low-resolution network alone."""

    def __init__(self, size: int, **kwargs):
        super().__init__(**kwargs)
        self.net = LowResNet(10, size)

    def build(self, images_shape):
        self.net.build(images_shape)

    def call(self, images):
        return self.net(images)[1]

    def get_config(self):
        return {"size": self.net.size[0]}


class Centre(keras.layers.Layer):
    """A location head that knows one place only."""

    def call(self, hidden, logits):
        return ops.full((ops.shape(hidden)[0], 2), 0.5)


class Anywhere(keras.layers.Layer):
    """A location head that says other places each time. How often it was asked is kept with the weights, for resuming."""

    def build(self, hidden_shape, logits_shape):
        self.asked = self.add_weight(shape=(), dtype="int64", initializer="zeros", trainable=False)

    def call(self, hidden, logits):
        self.asked.assign_add(1)
        return tf.random.stateless_uniform((ops.shape(hidden)[0], 2), tf.stack([self.asked.value, 0]))


@keras.saving.register_keras_serializable(package="recipes")
class CentreGlimpse(GlimpseClassifier):
    """One glimpse at the centre of every image. Without a search (`search_size=1`), no other place is tried."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.location_heads = [Centre()]


@keras.saving.register_keras_serializable(package="recipes")
class RandomGlimpse(GlimpseClassifier):
    """One glimpse at a random place of every image, in training and in testing: what looking is compared with."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.location_heads = [Anywhere()]


NETWORKS = (GlimpseClassifier, convolutional, CentreGlimpse, RandomGlimpse, Thumbnail, dense, conv, teacher)
NETWORKS = {network.__name__: network for network in NETWORKS}


def make(network: Mapping) -> keras.Model:
    """The network that a row describes, not built yet; ValueError if there is none of this name, or with these arguments."""
    arguments = dict(network)
    name = arguments.pop("name", None)
    if name not in NETWORKS:
        raise ValueError(f"network.name must be one of {sorted(NETWORKS)}; got {name!r}.")
    try:
        return NETWORKS[name](**arguments)
    except TypeError as error:
        raise ValueError(f"network {name!r}: {error}") from error
