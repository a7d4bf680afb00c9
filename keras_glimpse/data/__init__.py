"""MNIST, jittered MNIST, and digits that need no download: arrays, and `tf.data` pipelines of them."""

from keras_glimpse.data.digits import Digits as Digits
from keras_glimpse.data.digits import embedded_digits as embedded_digits
from keras_glimpse.data.digits import mnist_digits as mnist_digits
from keras_glimpse.data.pipelines import Epoch as Epoch
from keras_glimpse.data.pipelines import Splits as Splits
from keras_glimpse.data.pipelines import jittered as jittered
from keras_glimpse.data.pipelines import jittered_mnist as jittered_mnist
from keras_glimpse.data.pipelines import mnist as mnist
from keras_glimpse.data.pipelines import plain as plain
