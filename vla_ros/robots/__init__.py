"""The arms as facts, and the descriptions written from them."""
