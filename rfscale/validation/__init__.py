"""What is measured of a network on held-out data, the same for every formulation."""
