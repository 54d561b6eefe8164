"""What a decky gets before it first starts: accounts, passwords' hashes, host keys, and a life."""
