"""The judge of the shapes world: an encoder for FID and CLIP score, and a program that reads the image."""
