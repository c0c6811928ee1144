"""DEKR: bottom-up multi-person pose estimation in Keras 3, from training to phones.

Importing this package, the decoder and the evaluation loads no TensorFlow and no Keras.
"""

__version__ = "0.1.0"
