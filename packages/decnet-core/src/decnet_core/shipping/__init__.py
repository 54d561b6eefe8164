"""The shipping protocol `decnet-log/1`: each line of a worker's event log reaches the master exactly once.

`control` is the codec of what the two sides say besides lines; `sender` and `receiver` are the two state machines.
None of them does IO or reads a clock. docs/protocols/shipping.md is the specification.
"""
