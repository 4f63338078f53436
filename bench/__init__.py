"""Measures the server's hot paths against the least that the same machine could do instead.

`python -m bench` runs it. Absolute rates say more of the machine than of the code, so every number
is a ratio to a floor that answers with the same bytes, measured in the same minute. It imports the
server for its uvicorn settings only and speaks to it over HTTP.
"""
