"""Containment: a decky answers, it never attacks. A process of its own; `app` says what it is made of.

`ruleset` says what the kernel shall enforce (pure), `table` puts it there and holds it there, `sink` and `frames` see
what was kept back, `blocked` makes few events of many frames, `channel` is what the agent says to it.
"""
