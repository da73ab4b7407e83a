"""Workers: processes that claim flow runs from dispatcher's streams and run them."""

from consumers.app import App, Cancelled, Retry, Run

__all__ = ["App", "Cancelled", "Retry", "Run"]
