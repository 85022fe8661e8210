"""The models: attention weights, the influence of other modalities on them, aggregation; families and fusions."""
