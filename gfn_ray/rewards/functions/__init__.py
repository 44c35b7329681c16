"""Functions that judge a whole completion: built in, a user's file, or a callable from Python."""
