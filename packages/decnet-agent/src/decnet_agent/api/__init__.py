"""What the master asks of the agent, over mutual TLS."""
