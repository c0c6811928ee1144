"""Measures of how good poses are: OKS, the metrics of COCO and CrowdPose, PCK, and an analysis of errors."""
