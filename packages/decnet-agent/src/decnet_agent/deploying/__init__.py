"""From a shard to running deckies: the plan (pure), its execution, and what must not be forgotten."""
