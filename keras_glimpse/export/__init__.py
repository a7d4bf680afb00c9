"""Export to TensorFlow Serving, LiteRT and ONNX, with early exit inside the file, and to MediaPipe, without."""

from keras_glimpse.export.accelerator import export_accelerator as export_accelerator
from keras_glimpse.export.litert import export_litert as export_litert
from keras_glimpse.export.mediapipe import export_mediapipe as export_mediapipe
from keras_glimpse.export.onnx import export_onnx as export_onnx
from keras_glimpse.export.saved_model import export_saved_model as export_saved_model
