"""The networks of the model and their inputs: inference, section 2.1, eqs. 1 to 8."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import Parameter

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_glimpse._compat import outermost_layer
from keras_glimpse._validation.arguments import check_integers, check_one_of, temperatures_of
from keras_glimpse._validation.images import PixelRange, check_images, check_spec
from keras_glimpse.attributes import Fixed, Setting
from keras_glimpse.evidence import AVERAGING, LOCATION_INPUTS, Evidence, class_evidence, combine
from keras_glimpse.layers import MultiScaleCrop
from keras_glimpse.ops.geometry import candidate_locations, check_image_shape, search_grid, shape_of
from keras_glimpse.ops.runtime import ANY, TENSORFLOW, for_runtime, parameters_of
from keras_glimpse.ops.thumbnail import to_unit_range
from keras_glimpse.sources import batches
from keras_glimpse.sources.batches import Sources, are_sources, is_read_in_parts, named, readable
from keras_glimpse.sources.image import UnreadableImage
from keras_glimpse.tracing import Functions

UNROLLED = 16  # Patches of an image that a graph has an operation for, each.
NOT_IN_A_LIST = "; a functional model takes its inputs in one list: use a subclass of keras.layers.Layer or keras.Model"


class GlimpseNetworks(keras.Model):
    """A low-resolution network, and for each glimpse a location head and a glimpse network.

    Methods take and return `Evidence`, what is known of a batch so far:

        evidence = networks.first_look(images)             # eqs. 1 and 2
        location = networks.locate(evidence)               # eqs. 3 and 8
        patches = networks.patches(images, location)
        evidence = networks.glimpse(evidence, patches, location)  # eqs. 4 and 7
        logits = networks.answer(evidence)                 # eqs. 5 and 6

    Args:
        num_classes: number of classes, C.
        preprocess: a layer in front of everything, or None.
        crop: the `MultiScaleCrop`.
        low_res_net: maps images to `(hidden, logits)`.
        location_heads, glimpse_nets: one for each glimpse.
        gated_glimpse: whether the glimpse networks take the location too.
        group_size: how many places are predicted at a time (section 2.2.3).
        averaging, location_input: see `evidence`.
    """

    num_classes, num_glimpses, gated_glimpse, group_size = Fixed(), Fixed(), Fixed(), Fixed()
    averaging, location_input = Setting(partial(check_one_of, AVERAGING)), Setting(partial(check_one_of, LOCATION_INPUTS))

    def __init__(
        self,
        *,
        num_classes: int,
        preprocess: keras.Layer | None,
        crop: MultiScaleCrop,
        low_res_net: keras.Layer,
        location_heads: Sequence[keras.Layer],
        glimpse_nets: Sequence[keras.Layer],
        gated_glimpse: bool,
        group_size: int,
        averaging: str,
        location_input: str,
        **kwargs,
    ):
        super().__init__(**{"autocast": False, **kwargs})  # Images keep their precision.
        self.num_classes = num_classes
        self.num_glimpses = len(glimpse_nets)
        self.gated_glimpse = gated_glimpse
        if gated_glimpse and not all(_takes_two(net) for net in glimpse_nets):
            raise ValueError(f"gated_glimpse=True needs a glimpse_net that takes (patches, location){NOT_IN_A_LIST}.")
        if not all(_takes_two(head) for head in location_heads):
            raise ValueError(f"location_head must take (hidden, logits){NOT_IN_A_LIST}.")
        self.averaging = averaging
        self.location_input = location_input
        self.preprocess = preprocess
        self.crop = crop
        self.low_res_net = low_res_net
        self.location_heads = tuple(location_heads)
        self.glimpse_nets = tuple(glimpse_nets)
        self._image_shape = None
        self.group_size = group_size
        self._active = self.num_glimpses
        self.temperatures = None
        self._pixels = None if preprocess else PixelRange()
        self._functions = Functions(self)

    @property
    def active_glimpses(self) -> int:
        """Integer, the number of glimpses used by `predict`, `evaluate`, `look`, the cascade and exported files.

        It equals `num_glimpses` until a stage is trained, then the number of the glimpse trained last. May be set to any
        integer from 1 to `num_glimpses`.
        """
        return self._active

    @active_glimpses.setter
    def active_glimpses(self, value):
        check_integers(1, active_glimpses=value)
        if value > self.num_glimpses:
            raise ValueError(f"active_glimpses must be at most num_glimpses, {self.num_glimpses}; got {value}.")
        self._active = int(value)

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Tuple of `num_glimpses + 1` floats, what the logits after 0, 1, ... glimpses are divided by in inference.

        All are 1 until `fit_temperatures` or you set them, and again when the model is trained; `None` sets them to 1.
        """
        return self._temperatures

    @temperatures.setter
    def temperatures(self, values):
        self._temperatures = temperatures_of(values, self.num_glimpses + 1)

    @property
    def is_calibrated(self) -> bool:
        """Whether any temperature is not 1."""
        return set(self.temperatures) != {1.0}

    @property
    def image_shape(self) -> tuple[int | None, int | None, int] | None:
        """`(height, width, channels)` of the images that the model is built for, sides that may differ as None; None before."""
        return self._image_shape

    @property
    def least_sides(self) -> tuple[int, int]:
        """`(height, width)` of the smallest images in which a patch and the thumbnail fit, as far as that is known."""
        if self.preprocess is not None:
            return 1, 1
        thumbnail = self.low_res_net.size if getattr(self.low_res_net, "scales_integers", False) else (2, 2)
        return tuple(max(2, self.crop.size, side) for side in thumbnail)

    def traced(self) -> tuple[list, list]:
        """What graphs hold beside layers: values, and objects that are compared by identity (see `tracing`)."""
        return [self.active_glimpses, self.temperatures, self.image_shape], []

    # ---- One glimpse at a time ----

    def prepare(self, images, training=False) -> tf.Tensor:
        """Checks the images and applies `preprocess`; the other methods take its result: pixels, or `Sources` of names."""
        if is_read_in_parts(images):
            return images
        if are_sources(images):
            self.check_reads_names()
            return Sources.of(tf.reshape(images, [-1]), self.channels, self.check_source)
        check_spec(images.shape, images.dtype, self.image_shape, self.least_sides)
        if self.image_shape is not None and None in images.shape[1:]:  # A graph that the user traces may know less.
            images = tf.ensure_shape(images, (None, *self.image_shape))
        if self.preprocess is None:
            return images
        return self.preprocess(tf.cast(images, keras.config.floatx()), training=training)

    def first_look(self, images, training=False, runtime=ANY) -> Evidence:
        """The low-resolution network on the thumbnail of prepared images (eq. 1): the evidence before any glimpse."""
        if is_read_in_parts(images):
            images = images.thumbnails(self.low_res_net.size, self.channels)
        if not getattr(self.low_res_net, "scales_integers", False):
            images = to_unit_range(images, images.dtype)
        hidden, logits = for_runtime(self.low_res_net, runtime)(images, training=training)
        return Evidence(hidden, ops.cast(logits, "float32"))

    def locate(self, evidence: Evidence, runtime=ANY) -> tf.Tensor:
        """Location of the next glimpse, `[batch, 2]`, float32 whatever the head's dtype (eqs. 3 and 8)."""
        head, inputs, before = self._next_head(evidence)
        return ops.cast(for_runtime(head, runtime)(*inputs, **before), "float32")

    def log_map(self, evidence: Evidence) -> tf.Tensor | None:
        """log p(z) of the next glimpse, `[batch, rows, columns]`, if its location head is a map, such as `LocationMap`."""
        head, inputs, before = self._next_head(evidence)
        return head.log_probabilities(*inputs, **before) if hasattr(head, "log_probabilities") else None

    def _next_head(self, evidence):
        """The location head of the next glimpse, its inputs, and the locations before, if it asks for them."""
        n = len(evidence.glimpses)
        head = self.location_heads[n]
        seen = evidence._replace(glimpses=evidence.glimpses[: n - n % self.group_size])
        inputs = evidence.hidden, class_evidence(seen, self.location_input, self.averaging)
        return head, inputs, {"previous": evidence.locations} if "previous" in parameters_of(head) else {}

    def glimpse(self, evidence: Evidence, patches, location, training=False) -> Evidence:
        """Adds the logits of the next glimpse network for `patches` (eqs. 4 and 7)."""
        net = self.glimpse_nets[len(evidence.glimpses)]
        where = (location,) if self.gated_glimpse else ()
        logits = ops.cast(net(patches, *where, training=training), "float32")
        return evidence._replace(glimpses=(*evidence.glimpses, logits), locations=(*evidence.locations, location))

    def look_again(self, images, evidence: Evidence, runtime=ANY) -> Evidence:
        """Adds the next glimpse at prepared images, at the predicted location."""
        location = for_runtime(self.locate, runtime)(evidence)
        return self.glimpse(evidence, self.patches(images, location, runtime), location)

    def patches(self, images, location, runtime=ANY) -> tf.Tensor:
        """Patches of prepared images at locations `[batch, 2]`."""
        if is_read_in_parts(images):
            return self.crop_at(images, location[:, None])[:, 0]
        return self.crop(images, location, runtime=runtime)

    def candidates(self, images, location, search_size: int, stride, runtime=ANY) -> tuple[tf.Tensor, tf.Tensor]:
        """The places around a location that a search looks at (eq. 12), `[batch, n, 2]`, and the patches there."""
        places = candidate_locations(location, search_grid(search_size, stride), shape_of(images))
        if is_read_in_parts(images):
            return places, self.crop_at(images, places)
        return places, self.crop.candidates(images, location, search_size, stride, runtime)

    def combine(self, evidence: Evidence) -> tf.Tensor:
        """Class logits after the glimpses so far, `[..., num_classes]` (eqs. 5 and 6), which training learns from."""
        return combine(evidence, self.averaging)

    def answer(self, evidence: Evidence) -> tf.Tensor:
        """Class logits after the glimpses so far as inference gives them: `combine`, at the temperature of the stage."""
        temperature = self.temperatures[len(evidence.glimpses)]
        logits = self.combine(evidence)
        return logits if temperature == 1 else logits * (1 / temperature)

    def outputs_at(self, evidence: Evidence, patches, places, training=False) -> tf.Tensor:
        """o^{H_n} `[batch, n, num_classes]` of the next glimpse network for `patches` `[batch, n, ...]` at `places`."""
        flat = [ops.reshape(values, (-1, *values.shape[2:])) for values in (patches, places)]
        output = self.glimpse(evidence, *flat, training=training).glimpses[-1]
        return ops.reshape(output, (-1, ops.shape(patches)[1], self.num_classes))

    def outputs_everywhere(self, images, evidence: Evidence, rows, columns, runtime=ANY) -> tf.Tensor:
        """o^{H_n} `[batch, rows * columns, num_classes]` of the next glimpse network at all places of a grid, in inference.

        A network that `shares_pass`, such as `ConvGlimpseNet`, needs one pass over the image; for others, a row of the grid is
        cropped at a time, so that memory is bounded.
        """
        net = self.glimpse_nets[len(evidence.glimpses)]
        if getattr(net, "shares_pass", False):
            if is_read_in_parts(images):
                images = images.whole(self.channels)
            levels, starts = self.crop.levels(images, rows, columns, runtime)
            output = ops.cast(net.everywhere(levels, starts, self.crop.size), "float32")
        else:
            at_row = lambda y: self._outputs_in_row(images, evidence, y, columns, runtime)  # noqa: E731
            output = tf.transpose(tf.map_fn(at_row, tf.convert_to_tensor(rows), parallel_iterations=1), [1, 0, 2, 3])
        return ops.reshape(output, (-1, ops.shape(rows)[0] * ops.shape(columns)[0], self.num_classes))

    def _outputs_in_row(self, images, evidence, y, columns, runtime):
        places = tf.stack([y * tf.ones_like(columns), columns], axis=-1)
        places = tf.tile(places[None], [shape_of(images)[0], 1, 1])
        return self.outputs_at(evidence, self.crop_at(images, places, runtime), places)

    def crop_at(self, images, places, runtime=ANY) -> tf.Tensor:
        """Patches `[batch, n, size, size, channels]` at several places `[batch, n, 2]` of each image."""
        if is_read_in_parts(images):
            return images.patches(places, self.crop.size, self.crop.scales, self.channels)
        crop = lambda place: self.crop(images, place, runtime=runtime)  # noqa: E731
        if places.shape[1] is not None and places.shape[1] <= UNROLLED:
            return ops.stack([crop(place) for place in ops.unstack(places, axis=1)], axis=1)
        # Many, or as many as the size of the images says, which only the graph knows.
        size, channels = self.crop.size, images.shape[3] * len(self.crop.scales)
        patches = tf.TensorSpec((None, size, size, channels), tf.float32)
        return tf.transpose(tf.map_fn(crop, tf.transpose(places, [1, 0, 2]), fn_output_signature=patches), [1, 0, 2, 3, 4])

    def combined(self, evidence: Evidence, outputs) -> tf.Tensor:
        """The class logits `[batch, n, num_classes]` if the next glimpse gave `outputs` (eqs. 5 and 6)."""
        before = [logits[:, None] for logits in evidence.glimpses]
        return self.combine(Evidence(None, evidence.low_res[:, None], (*before, outputs)))

    # ---- All of them: Keras's `call`, and `look` ----

    def look_at_all(self, images, training=False, runtime=ANY) -> dict[str, tf.Tensor]:
        """The outputs of `look`, as part of the current graph."""
        return self.look_at_prepared(self.prepare(images, training), training, runtime)

    def look_at_prepared(self, images, training=False, runtime=ANY) -> dict[str, tf.Tensor]:
        """`look_at_all` on the result of `prepare`."""
        locate = for_runtime(self.locate, runtime)
        answer = self.combine if training else self.answer
        evidence = for_runtime(self.first_look, runtime)(images, training=training)
        logits, locations, patches = [answer(evidence)], [], []
        for _ in range(self.active_glimpses):
            locations.append(locate(evidence))
            patches.append(self.patches(images, locations[-1], runtime))
            evidence = self.glimpse(evidence, patches[-1], locations[-1], training)
            logits.append(answer(evidence))
        steps = {"logits": logits, "locations": locations, "patches": patches}
        return {name: ops.stack(values, axis=1) for name, values in steps.items()}

    def call(self, images, training=False, runtime=ANY):
        if training and self.trainable and outermost_layer() not in (None, self):
            raise ValueError(
                f"{type(self).__name__} cannot be trained as a part of {outermost_layer().name!r}: its location heads learn "
                "in its own fit only. Pass layers that come before it as `preprocess`, or set its `trainable` to False."
            )
        return self.look_at_all(images, training, runtime)["logits"][:, -1]

    def look(self, images) -> dict[str, tf.Tensor]:
        """Returns the logits after each glimpse, the locations and the patches, for a batch of images.

        Args:
            images: Array or tensor `[batch, height, width, channels]` of floats or unsigned integers, processed as one batch;
                or a list of images of which only what is looked at is read (see `open_image`).

        Returns:
            Dict of float32 tensors:

            - `"logits"`: `[batch, active_glimpses + 1, num_classes]`, after 0, 1, ... glimpses (eq. 6), divided by
              `temperatures`;
            - `"locations"`: `[batch, active_glimpses, 2]`, `(y, x)` in [0, 1];
            - `"patches"`: `[batch, active_glimpses, size, size, channels * len(scales)]`, the patches of each glimpse.

        Raises:
            ValueError: If the images are not of the shape that the model was built for.
            TypeError: If `images` is not one array of floats, uint8 or uint16.

        Example:
        >>> from keras_glimpse import GlimpseClassifier
        >>> model = GlimpseClassifier(num_classes=10)
        >>> seen = model.look(ops.zeros((3, 48, 48, 1)))
        >>> seen["logits"].shape, seen["locations"].shape, seen["patches"].shape
        (TensorShape([3, 3, 10]), TensorShape([3, 2, 2]), TensorShape([3, 2, 12, 12, 2]))
        """
        if are_sources(images) and tf.executing_eagerly():
            with self.named(images) as names, readable():
                look = self.cached("look at sources", lambda: self.graph(self.look_at_all, jit_compile=False))
                return look(tf.constant(names))
        self.check_images(images)
        if not self.built:
            self.build(images.shape)
        if not tf.executing_eagerly():  # In another graph it must be traced anew, since that may be for another runtime.
            return self.look_at_all(ops.convert_to_tensor(images))
        self.see_pixels(images)
        return self.cached("look", lambda: self.graph(self.look_at_all))(ops.convert_to_tensor(images))

    def check_images(self, images, at_least: int = 0) -> None:
        """Raises unless these are images of the size that the model is for, at least so many."""
        check_images(images, self.image_shape, self.least_sides, at_least)

    def see_pixels(self, images) -> None:
        """Warns, once, if float pixels are outside the range that the model expects; checks the first 32 images."""
        if self._pixels:
            self._pixels.see(images, count=32)

    def check_pixels(self, images) -> None:
        """Raises ValueError if pixels are outside the range that the model expects."""
        if self._pixels:
            self._pixels.check(images)

    # ---- Images that are read in parts ----

    @property
    def channels(self) -> int | None:
        """Of the images; `None` before the model is built."""
        return self._image_shape and self._image_shape[2]

    @property
    def reads_parts(self) -> bool:
        """Whether the model can look at images of which only parts are read."""
        averages = getattr(self.low_res_net, "scales_integers", False) and self.low_res_net.downsample == "area"
        return self.preprocess is None and averages

    def check_reads_parts(self) -> None:
        """Raises ValueError unless `reads_parts`."""
        if not self.reads_parts:
            preprocess = "" if self.preprocess is None else f", preprocess={type(self.preprocess).__name__}"
            raise ValueError(
                "Images that are read in parts need a model without `preprocess`, which sees whole images, and with a "
                'low_res_net that averages them: LowResNet or ConvLowResNet with downsample="area"; got '
                f"{type(self.low_res_net).__name__}{preprocess}."
            )

    def check_reads_names(self) -> None:
        """Raises ValueError unless the model can be given names: they do not tell for what images it is to be built."""
        self.check_reads_parts()
        if not self.built:
            raise ValueError("Names of images need a model that is built: build((None, None, None, channels)).")

    @contextmanager
    def named(self, images) -> Iterator[np.ndarray]:
        """The names by which graphs read images in parts, while this lasts; raises unless all can be opened and fit."""
        images = batches.listed(images)
        if not images:
            raise ValueError("Expected at least one image; got none.")
        self.check_reads_parts()
        with named(images, self.channels) as names:
            if not self.built:
                self._build_for(batches.shapes(names, self.channels))
            batches.check_each(names, self.channels, self.check_source)
            yield names

    def check_source(self, image):
        """Raises UnreadableImage unless the model is for images of this size."""
        try:
            check_spec((None, *image.shape), image.dtype, self.image_shape, self.least_sides)
        except ValueError as error:
            raise UnreadableImage(f"{image.name}: {error}") from error

    def _build_for(self, shapes):
        """Builds the model for images of these sizes."""
        heights, widths, channels = ({*values} for values in zip(*shapes))
        if len(channels) > 1:
            raise ValueError(f"Expected images of one number of channels; got {sorted(channels)}.")
        self.build((None, *(sides.pop() if len(sides) == 1 else None for sides in (heights, widths)), channels.pop()))

    # ---- Building and tracing ----

    def build(self, input_shape):  # The converter of LiteRT asks for an argument of this name.
        check_image_shape(input_shape)
        images = keras.KerasTensor((None, *input_shape[1:]), "float32")
        if self.preprocess is not None:
            images = self.preprocess(images)
            check_image_shape(images.shape)
        outputs = self.low_res_net(images)
        if not isinstance(outputs, tuple | list) or len(outputs) != 2:
            raise ValueError(f"low_res_net must return (hidden, logits); got {outputs}.")
        evidence = Evidence(outputs[0], outputs[1])
        self._check_logits("low_res_net", evidence.low_res)
        for _ in range(self.num_glimpses):  # Builds every network, the user's too, on what it will be given.
            evidence = self.look_again(images, evidence)
            self._check_logits("glimpse_net", evidence.glimpses[-1])
        self._image_shape = tuple(input_shape[1:])

    def _check_logits(self, name, logits):
        if tuple(logits.shape[1:]) != (self.num_classes,):
            raise ValueError(f"{name} must give {self.num_classes} logits; got {', '.join(map(str, logits.shape[1:]))}.")

    def compute_output_shape(self, images_shape):
        return (images_shape[0], self.num_classes)

    def compute_output_spec(self, images, training=False, runtime=ANY):
        return keras.KerasTensor(self.compute_output_shape(images.shape), "float32")

    def cached(self, name: str, make: Callable):
        """What `make()` returns; made again only when something has changed that graphs hold (see `tracing`)."""
        return self._functions.get(name, make)

    def graph(self, function: Callable, jit_compile: bool | None = None) -> tf.function:
        """A function with an argument `runtime` as a graph for TensorFlow, by default compiled by XLA if the model is."""
        function = partial(function, runtime=TENSORFLOW)
        jit_compile = self.jit_compile if jit_compile is None else jit_compile
        return tf.function(function, jit_compile=jit_compile, reduce_retracing=True, autograph=False)


def _takes_two(net):
    """Whether a network has a second input."""
    kinds = [each.kind for name, each in parameters_of(net).items() if name not in ("training", "mask")]
    return Parameter.VAR_POSITIONAL in kinds or len([kind for kind in kinds if kind != Parameter.VAR_KEYWORD]) > 1
