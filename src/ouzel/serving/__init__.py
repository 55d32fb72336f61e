"""The HTTP server: its routes, the writer that makes events durable, and the live page."""
