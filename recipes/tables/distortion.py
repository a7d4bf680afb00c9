"""Digits as others might have written them: for training on more than there are."""

from math import ceil

import numpy as np
from scipy import ndimage

from keras_glimpse.data import Digits

TURN, STRETCH, SLANT = np.radians(8.0), 0.1, 0.1  # At most so much, either way: an angle, and shares of lengths.
BEND, SMOOTH = 12.0, 4.0  # As alpha and sigma in Simard, Steinkraus and Platt, 2003: moves pixels by about half of one.
CHUNK = 1000  # Digits that are distorted at once


def distorted(digits: Digits, copies: int, seed: int = 0) -> Digits:
    """Puts `copies` of each training digit, one after another, in its place, each turned, stretched, slanted and bent a little.

    Test digits stay as they are.

    Example:
    >>> from keras_glimpse.data import embedded_digits
    >>> digits = embedded_digits()
    >>> len(distorted(digits, copies=3).train_images) == 3 * len(digits.train_images)
    True
    """
    generator = np.random.default_rng(seed)
    indices = np.arange(copies * len(digits.train_images)) // copies
    chunks = np.array_split(indices, ceil(len(indices) / CHUNK))
    images = np.concatenate([_distort(digits.train_images[chunk, ..., 0], generator) for chunk in chunks])
    return digits._replace(train_images=images[..., None], train_labels=digits.train_labels[indices])


def _distort(images, generator):
    """Takes every pixel from the place to which a linear map around the centre, and a smooth displacement, send it."""
    count, *shape = images.shape
    centre = (np.array(shape, np.float32) - 1) / 2
    pixels = np.stack(np.indices(shape, np.float32), axis=-1).reshape(-1, 2) - centre
    noise = generator.uniform(-1, 1, (count, *shape, 2)).astype(np.float32)
    places = (pixels @ _linear_maps(count, generator)).reshape(noise.shape) + centre
    places += BEND * ndimage.gaussian_filter(noise, SMOOTH, axes=(1, 2))
    of_image = np.broadcast_to(np.arange(count)[:, None, None], images.shape)
    places = [of_image, *np.moveaxis(places, -1, 0)]
    return np.rint(ndimage.map_coordinates(images.astype(np.float32), places, order=1)).astype(np.uint8)


def _linear_maps(count, generator):
    """`[count, 2, 2]`, to be multiplied by `(y, x)` from the left."""
    turn, slant = (generator.uniform(-most, most, count) for most in (TURN, SLANT))
    scale = np.exp(generator.uniform(-STRETCH, STRETCH, (count, 1, 2)))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    shear = np.array([[np.ones(count), slant], [np.zeros(count), np.ones(count)]])
    return (np.einsum("ijn,jkn->nik", rotation, shear) * scale).astype(np.float32)
