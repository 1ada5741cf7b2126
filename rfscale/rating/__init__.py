"""Human preference: two images for one prompt, blind; which is better? `rfscale rate` serves it on loopback."""
