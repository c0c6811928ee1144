"""Synthetic people with exact keypoint labels: a data set to try training on, without downloads or licenses.

A figure is a small 3D skeleton, turned about the vertical and projected orthographically onto the image, so that left
and right, front and back can be told from the drawing: face, hair and shirt front show where the figure looks.
"""

from dekr_tf.data.synthetic.dataset import write_dataset
from dekr_tf.data.synthetic.scene import Scene, draw_scene

__all__ = ["Scene", "draw_scene", "write_dataset"]
