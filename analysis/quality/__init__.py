"""What the loss says about the pictures: correlation with FID, CLIP score and GenEval, and the paper's tables."""
