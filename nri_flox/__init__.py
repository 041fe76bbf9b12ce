"""nri-flox: an NRI plugin that runs Kubernetes pods in their Flox environments."""

__version__ = "0.1.0"
