"""The watch cache: every served object and the recent events, in memory, from one store watch."""
