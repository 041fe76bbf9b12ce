"""The service: it wires the rooms together and keeps them running on a node."""
