"""What happened, to whom: events, the ids and rows of users and items, and the durable log."""
