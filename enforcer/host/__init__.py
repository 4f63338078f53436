"""The host around the filter: ways by which packets could pass it, and a canary that tries."""
