"""Who asks, and whether they may: k8s.io/apiserver `pkg/authentication` and `pkg/authorization`."""
