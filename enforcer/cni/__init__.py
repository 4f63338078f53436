"""Pods that are being started: the CNI plugin, and the socket at which it waits."""
