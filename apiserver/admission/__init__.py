"""What the cluster wants to look at before it is stored.

kube-apiserver calls its webhooks and counts its quotas for its own resources only, so an extension
server has to do both itself.
"""
