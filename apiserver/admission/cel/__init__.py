"""Expressions in CEL, as webhooks and policies of the cluster have them.

They are evaluated by processes of their own (`worker`), which are started when the first is met. A
write may use a second of processor time and little memory there: no expression stalls the server,
whatever it makes of an object of 3 MiB. `evaluator` asks them, with a `job` for each write, and
whose is next is decided in `turns`.
"""
