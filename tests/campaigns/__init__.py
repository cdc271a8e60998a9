"""Programs that print figures: each is a make target and ends with one JSON object on stdout."""
