"""The four layers of the model."""

from keras_glimpse.layers.glimpse_net import GlimpseNet as GlimpseNet
from keras_glimpse.layers.location_head import LocationHead as LocationHead
from keras_glimpse.layers.low_res_net import LowResNet as LowResNet
from keras_glimpse.layers.multi_scale_crop import MultiScaleCrop as MultiScaleCrop
