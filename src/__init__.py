"""A hand-written recurrent network that predicts the language of a surname."""
