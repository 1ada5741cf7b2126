"""One trial from its first step to its last. Needs torch, and neither Ray nor MLflow."""
