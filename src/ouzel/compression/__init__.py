"""From a trained model to what serves it: exported graphs and the measure of their error."""
