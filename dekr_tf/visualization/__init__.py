"""Pictures of poses, and of the errors that they have."""
