//! What the protocol demands of envelopes, topics, retention, fees and congestion, as functions of values.
