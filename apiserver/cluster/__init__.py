"""The cluster that the server extends: how its kube-apiserver is reached, asked and followed."""
