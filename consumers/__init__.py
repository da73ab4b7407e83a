"""Workers: processes that claim flow runs from dispatcher's streams and run them."""
