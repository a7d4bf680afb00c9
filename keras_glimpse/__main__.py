"""`python -m keras_glimpse`, the same as `keras-glimpse`."""

import sys

from keras_glimpse.command import main

if __name__ == "__main__":
    sys.exit(main())
