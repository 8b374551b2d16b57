"""Anything that can answer: one protocol, the wire format providers share, and this node's own workers."""
