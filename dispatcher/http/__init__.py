"""The HTTP edge: it waits and parses; store, inspector and producer do the work in threads."""
