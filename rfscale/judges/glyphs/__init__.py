"""The judge of the glyphs world: is the word spelled as the caption says?"""
