"""The command `callstream`: what people type, and what they get to read."""
