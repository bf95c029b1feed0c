"""The front door: the `mergefront` command line and the Python client."""

from mergefront.client import Client, RequestRefused

__all__ = ["Client", "RequestRefused"]
