"""The exchange of gradients over slow, shared or hostile networks; so far, its codecs."""
