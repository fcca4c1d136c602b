"""Two chained products, usually with a softmax between."""
