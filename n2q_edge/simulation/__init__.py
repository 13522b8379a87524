"""CT noise and phantoms: everything that makes an image with a known truth (extra `sim`)."""
