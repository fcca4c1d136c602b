"""The gated delta rule: a recurrence over tokens with a matrix of state for each head."""
