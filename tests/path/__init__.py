"""The whole path: every stage on the embedded parts, driven as its users drive it."""
