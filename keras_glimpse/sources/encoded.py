from keras_glimpse.sources.image import ImageSource


class EncodedImage(ImageSource):
    pass
