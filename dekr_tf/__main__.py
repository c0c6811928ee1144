"""`python -m dekr_tf` is `dekr`, where that is not on the path."""

from dekr_tf.cli.main import program

program()
