"""The request path: a `Pipeline` of stages from a query to the final list."""
