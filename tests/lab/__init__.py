"""The lab: the real pieces that tests and the demonstration run against, on demand and never touching the machine's.

- `engine`     a private Docker daemon with its own storage, socket and state
- `image`      the decky images, built without a registry and kept between runs
- `lan`        a network segment with an attacker on it
- `machine`    a bare Debian with systemd, to install on
- `processes`  our daemons as child processes that never outlive the test
- `postgres`   a private database cluster
- `slots`      how parallel and killed runs stay out of one another's way; `leftovers` is how a killed engine is cleared

Everything lives under `DECNET_LAB_CACHE` (default /var/cache/decnet-lab: what is worth keeping) and `DECNET_LAB_RUN`
(default /run/decnet-lab: what is gone after a boot); only the locks of what is named for the whole machine, interfaces
and namespaces, are in one place for all. Each is a `piece`, which `with` brings up and takes down. A part that the
machine lacks raises `MissingPart`, which says what to install; the fixtures turn that into a skip, or into a failure
where CI=true.
"""
