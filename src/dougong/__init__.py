"""dougong."""
