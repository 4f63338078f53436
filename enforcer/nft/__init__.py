"""The border to the kernel: raw netlink, in the network namespace that is filtered."""
