"""Who did what, when, and what came of it: audit.k8s.io/v1 as kube-apiserver keeps it.

`policy` decides what is kept of a request and `event` words it; both are pure. `log` and `rotation`
write it down, `webhook` sends it, and `outputs` opens them. `apiserver.http.audit` follows a
request through its stages and calls them.
"""
