"""The server as a part of a cluster: users, permissions, certificates, and what goes away."""
