"""What may be stored and how it is read: strategies, the store side and the read side."""
