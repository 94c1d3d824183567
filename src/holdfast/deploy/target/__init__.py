"""Scripts that run on the target, without holdfast."""
