"""The master of a DECNET deception network: controller, receiver, storage, API."""

__version__ = "0.1.0"
