"""ttrpc for Python: the small RPC protocol that containerd speaks over Unix sockets, and NRI's multiplexer
below it.

`mux` and `connection` are state machines without a socket: bytes in, events out; calls in, bytes out.
`driver` runs them over one blocking socket. Unary calls only. This package knows nothing of the rest of
nri_flox.
"""
