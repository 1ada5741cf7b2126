"""Data that `rfscale encode` wrote: latents of an autoencoder, and what text encoders give for the captions."""
