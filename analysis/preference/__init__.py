"""What people prefer: votes between two images into strengths with intervals."""
