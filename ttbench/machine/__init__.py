"""What a run is measured on: clocks, memory, limits, rates."""
