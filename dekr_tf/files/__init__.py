"""The world outside: images, video, annotation files, downloads, outputs that are written whole."""
