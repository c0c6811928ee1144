"""Pictures of poses, of their errors, and of what a network computes."""
