"""Lower precision: 8-bit weights and activations in the layouts that runtimes really fuse."""
