"""The world outside: images, video, annotation and results files, downloads, outputs that are written whole."""
