"""Synthetic people with exact keypoint labels: a data set to try training on, without downloads or licenses.

A figure is a small skeleton in three dimensions, turned about the vertical and projected straight onto the image, so
that left and right, front and back follow from what is drawn: the face, hair and shirt front show where it looks.
"""

from dekr_tf.data.synthetic.dataset import write_dataset
from dekr_tf.data.synthetic.scene import Scene, draw_scene

__all__ = ["Scene", "draw_scene", "write_dataset"]
