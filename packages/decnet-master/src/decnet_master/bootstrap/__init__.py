"""Make a bare host a worker with one line: what the master hands out for it.

- line: what the operator pastes; it holds no secret but the token, and what the script hashes to
- worker_fetch, worker_steps: that script, which runs on the worker with the standard library alone
- wheels: which wheels fit a worker (pure)
- bundles: the wheels on the master's disk, and how they get there
- routes: the endpoint's part: the script to whoever asks, wheels to who shows an open token
"""
