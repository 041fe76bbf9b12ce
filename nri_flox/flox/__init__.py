"""What Flox means: references, annotations, tokens, rendered environments and how one is activated.

Values and pure functions; what reads a disk is given the directory. Nothing in here knows of NRI.
"""
