"""The REST API and the live stream: what screens and other programs read.

app       puts the process together
routes    the HTTP application: which room needs a login and which does not
access    tokens of a session: made at login, checked with every request
auth      login and "who am I"
events    pages of events
stream    the live stream (SSE)
fanout    one reader of the database, many clients of the stream
health    /livez, /readyz and what is behind them
shipping  who ships what, the journal, what waits
metrics   the same for Prometheus
silence   the alarm for workers from which nothing comes
"""
