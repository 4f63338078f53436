"""Expressions in CEL, as webhooks and policies of the cluster have them.

They are evaluated by a process of their own (`worker`), which is started when the first is met, may
use a second of processor time and little memory for a request, and is replaced when it needs more:
no expression stalls the server, whatever it makes of an object of 3 MiB. `evaluator` asks it.
"""
