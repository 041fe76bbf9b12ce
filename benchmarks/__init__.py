"""How fast nri-flox is, in ratios to a plugin on Go's own stub that does nothing but answer.

`protocol` measures both plugins through Go's NRI adaptation, `node` containers on a real containerd; `figures` turns
measurements into ratios and `report` writes them down. Nothing here is part of the program.
"""
