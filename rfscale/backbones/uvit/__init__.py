"""UViT, the hybrid of U-Net and transformer of *simple diffusion* (Hoogeboom et al. 2023, arXiv 2301.11093)."""
