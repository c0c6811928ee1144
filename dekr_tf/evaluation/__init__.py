"""Measures of how good poses are: the metrics of COCO and CrowdPose, PCK, and an analysis of errors."""
