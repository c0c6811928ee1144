"""Pictures of poses, of the errors that they have, and of what a network looks at."""
