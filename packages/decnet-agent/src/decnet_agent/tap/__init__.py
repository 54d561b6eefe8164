"""Watch deckies from outside: the host's kernel tells what attackers run, type and write.

`app` composes the rest. Pure: asciicast, attribution, asm, btf, decoding, elf, programs, remembered,
terminal_programs. Adapters: channel to the collector (`decnet_agent.evidence.sender`), deckies, fanotify, file_queue,
following, holdings, kernel, memory, procs, quarantine, recording_files, ring, rooted, terminal_probes.
"""
