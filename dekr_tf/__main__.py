"""Runs `dekr` as `python -m dekr_tf`, for when the script is not on the path."""

from dekr_tf.cli.main import program

program()
