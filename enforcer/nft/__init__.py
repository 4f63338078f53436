"""The border to the kernel: libnftables in process, in the network namespace that is filtered."""
