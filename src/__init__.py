"""A hand-written recurrent network that says which language a surname comes from."""
