"""What a model may see: histories cut into windows and assembled into batches."""
