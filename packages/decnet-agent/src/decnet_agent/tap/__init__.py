"""Watch deckies from outside: the host's kernel tells what attackers run, type and write.

`app` composes the rest. Pure: attribution, asm, btf, decoding, elf, programs. Adapters: channel to the collector
(`decnet_agent.evidence.sender`), deckies, fanotify, kernel, procs, quarantine, ring, rooted.
"""
