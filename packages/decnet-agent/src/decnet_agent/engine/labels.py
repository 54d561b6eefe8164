"""The labels by which the agent knows its own containers and network again; none can be seen from inside a decky."""

LABEL_DECKY = "decnet.decky"
LABEL_GENERATION = "decnet.generation"
LABEL_SERVICES = "decnet.services"
LABEL_FINGERPRINT = "decnet.fingerprint"
LABEL_IP = "decnet.ip"
LABEL_MAC = "decnet.mac"
LABEL_NETWORK = "decnet.network"
