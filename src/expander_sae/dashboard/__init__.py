"""The browser of a feature store: a local server, its pages, and the same pages as files."""
