"""The environments on this node: fetched by workers, laid out for containers, known in memory.

The catalogue is all that a request reads of this; everything else in here may take its time.
"""
