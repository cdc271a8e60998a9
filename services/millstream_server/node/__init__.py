"""The composition root: configuration, the data folder, and the wiring of the roles into one
process."""
