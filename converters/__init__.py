"""Conversion between dekr_tf models and other formats. Heavy, optional dependencies live here."""
