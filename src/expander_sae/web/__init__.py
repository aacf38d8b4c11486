"""What every server of this package shares: who may ask, how long a request may take, and an end in good order."""
