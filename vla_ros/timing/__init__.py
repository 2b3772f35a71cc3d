"""When: one instant for every stream, one schedule for every chunk; integer nanoseconds, no clock inside."""
