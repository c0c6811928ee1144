"""From annotation files and photos to batches of training samples, and synthetic people to try it with."""
