"""Number-for-number comparison with diffusers."""
