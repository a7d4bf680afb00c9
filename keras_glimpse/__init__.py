"""keras_glimpse: image classification whose cost follows how hard the image is, not how many pixels it has.

It implements "On Learning Where To Look" (Ranzato, 2014) for TensorFlow and Keras 3.
"""

from keras_glimpse import _backend  # noqa: F401, I001  First: it says what is missing.
from keras_glimpse import data as data
from keras_glimpse.card import model_card as model_card
from keras_glimpse.cascade.predict import CascadePrediction as CascadePrediction
from keras_glimpse.cascade.predict import cascade_predict as cascade_predict
from keras_glimpse.cascade.sources import SourcePrediction as SourcePrediction
from keras_glimpse.cascade.sources import predict_to_csv as predict_to_csv
from keras_glimpse.training.checkpoints import Checkpoints as Checkpoints
from keras_glimpse.cascade.curve import CascadeCurve as CascadeCurve
from keras_glimpse.cascade.curve import cascade_curve as cascade_curve
from keras_glimpse.cascade.temperatures import fit_temperatures as fit_temperatures
from keras_glimpse.export import export_accelerator as export_accelerator
from keras_glimpse.export import export_litert as export_litert
from keras_glimpse.export import export_mediapipe as export_mediapipe
from keras_glimpse.export import export_onnx as export_onnx
from keras_glimpse.export import export_saved_model as export_saved_model
from keras_glimpse.training.greedy import fit_greedy as fit_greedy
from keras_glimpse.training.greedy import paper_sgd as paper_sgd
from keras_glimpse.export.integrity import check_file as check_file
from keras_glimpse.layers import Backbone as Backbone
from keras_glimpse.layers import ConvGlimpseNet as ConvGlimpseNet
from keras_glimpse.layers import ConvLowResNet as ConvLowResNet
from keras_glimpse.layers import GlimpseNet as GlimpseNet
from keras_glimpse.layers import LocationHead as LocationHead
from keras_glimpse.layers import LocationMap as LocationMap
from keras_glimpse.layers import LowResNet as LowResNet
from keras_glimpse.layers import MultiScaleCrop as MultiScaleCrop
from keras_glimpse.layers import Thumbnail as Thumbnail
from keras_glimpse.cascade.macs import count_macs as count_macs
from keras_glimpse.cascade.macs import stage_macs as stage_macs
from keras_glimpse.model import GlimpseClassifier as GlimpseClassifier
from keras_glimpse.pictures import draw_glimpses as draw_glimpses
from keras_glimpse.pictures import draw_map as draw_map
from keras_glimpse.pretrained import load_pretrained as load_pretrained
from keras_glimpse.pretrained import pretrained_folder as pretrained_folder
from keras_glimpse.pretrained import pretrained_names as pretrained_names
from keras_glimpse.sources.arrays import ArrayImage as ArrayImage
from keras_glimpse.sources.encoded import EncodedImage as EncodedImage
from keras_glimpse.sources.image import ImageSource as ImageSource
from keras_glimpse.sources.image import UnreadableImage as UnreadableImage
from keras_glimpse.sources.maps import MapImage as MapImage
from keras_glimpse.sources.opening import open_image as open_image
from keras_glimpse.sources.slides import SlideImage as SlideImage
from keras_glimpse.training.schedule import SearchSchedule as SearchSchedule
from keras_glimpse.version import __version__ as __version__
