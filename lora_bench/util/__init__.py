"""Files, signals, hashing, seeding, redaction, and what is fetched: nothing here knows of fine-tuning."""
