"""Which arm is better, by how much, how surely, and does it hold as models grow?"""
