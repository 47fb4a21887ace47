"""The tests: real brokers, real databases, no fixed sleeps; a docstring states the property each test holds."""
