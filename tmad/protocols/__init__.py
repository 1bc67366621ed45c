"""One folder a protocol: codec, responder, plugin."""
