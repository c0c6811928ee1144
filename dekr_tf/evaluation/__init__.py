"""Measures of how good poses are: OKS and the COCO keypoint metric."""
