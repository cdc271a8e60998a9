"""Makes the repository root importable, so that tests share fakes as ``tests.fakes``."""
