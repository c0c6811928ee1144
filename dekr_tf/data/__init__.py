"""From annotation files and photos to batches of training samples, and drawn people to try it with."""
