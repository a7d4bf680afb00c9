"""The layers of the model."""

from keras_glimpse.layers.backbone import Backbone as Backbone
from keras_glimpse.layers.conv_glimpse_net import ConvGlimpseNet as ConvGlimpseNet
from keras_glimpse.layers.conv_low_res_net import ConvLowResNet as ConvLowResNet
from keras_glimpse.layers.glimpse_net import GlimpseNet as GlimpseNet
from keras_glimpse.layers.location_head import LocationHead as LocationHead
from keras_glimpse.layers.location_map import LocationMap as LocationMap
from keras_glimpse.layers.low_res_net import LowResNet as LowResNet
from keras_glimpse.layers.multi_scale_crop import MultiScaleCrop as MultiScaleCrop
from keras_glimpse.layers.thumbnail import Thumbnail as Thumbnail
