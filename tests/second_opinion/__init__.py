"""The runbooks against AWS emulators that other people wrote: ``make test-second-opinion``."""
