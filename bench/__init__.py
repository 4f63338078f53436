"""Measures the hot paths against the least that the same machine could do instead.

`python -m bench` runs it. Absolute rates say more of the machine than of the code, so nearly every
number of the server is a ratio to a floor that moves the same bytes, measured in the same minute,
and so are packets. It speaks to the server over HTTP, and imports of it only how it sets up uvicorn
and how it writes an object down. The enforcer runs as a process, or by its compiler and its table.
"""
