"""Message layer, transport and the embedded broker."""
