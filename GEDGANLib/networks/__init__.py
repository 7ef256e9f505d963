"""Generator and discriminator; they import nothing of the library above ``structure``."""
